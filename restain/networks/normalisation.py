"""Instance norm and batch norm whose gradients are right in every memory order.

PyTorch's own are not (2.13, on a CPU): the backward pass of batch norm misreads a gradient that lies channels-last in
memory where the batch holds one image and the stride of the batch, which nothing depends on, is not the usual one. A
view is enough to change that stride, and instance norm is batch norm on a view. `docs/notes/batch_norm_gradient.md`
has the smallest example.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restain.errors import ShapeError


class InstanceNorm(nn.Module):
    """Bring each channel of each image to mean 0 and variance 1: N x C x H x W to the same shape (Ulyanov et al. 2016).

    Without weights and without running statistics, so that it has no entry in a checkpoint.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features = num_features
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """See `instance_norm`."""
        return instance_norm(x, self.eps)

    def extra_repr(self) -> str:
        """What `print` shows of it."""
        return f"{self.num_features}, eps={self.eps}"


class BatchNorm(nn.BatchNorm2d):
    """Batch norm as PyTorch's, with the same entries in a checkpoint, and a right gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        if torch.compiler.is_compiling():  # the compiler derives its own backward pass
            return super().forward(x)
        x = x if _is_channels_last(x) else x.contiguous()
        normalised: Tensor = super().forward(x)
        return _with_gradient_laid_out(normalised, like=x)


def instance_norm(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Normalise each channel of each image by its own mean and variance; the memory order of x is kept.

    Half precision is normalised by float32 statistics. `benchmarks/instance_norm.py` compares the kernels: PyTorch's
    group norm is the fastest on a CPU, but loses most digits where channels lie last; batch norm over one image is
    right and fast there.

    Args:
        x: N x C x H x W, any floating type.
        eps: added to the variance.

    Returns:
        N x C x H x W in the type of x.

    Raises:
        ShapeError: the images have a single pixel, which has no variance.
    """
    batch, channels, height, width = x.shape
    if torch.onnx.is_in_onnx_export():  # one operator there, and no backward pass
        return F.instance_norm(x, eps=eps)
    if torch.compiler.is_compiling():  # the compiler derives its own backward pass
        return F.group_norm(x, channels, eps=eps)
    if height * width == 1:
        raise ShapeError(
            f"instance norm needs more than one pixel per channel, but got {batch} × {channels} × 1 × 1; "
            "use larger images or fewer halvings"
        )
    if _is_channels_last(x):
        images = [_over_one_image(image, eps) for image in torch.split(x, 1)]
        return images[0] if batch == 1 else torch.cat(images)
    x = x.contiguous()
    if x.device.type != "cpu":
        return _over_one_image(x.view(1, batch * channels, height, width), eps).view_as(x)
    weight, bias = _identity(x, channels)
    return torch.native_group_norm(x, weight, bias, batch, channels, height * width, channels, eps)[0]


def _over_one_image(x: Tensor, eps: float) -> Tensor:
    """Instance norm of one image, 1 x C x H x W, which is batch norm."""
    weight, bias = _identity(x, x.shape[1])
    normalised = torch.batch_norm(x, weight, bias, None, None, True, 0.0, eps, False)
    return _with_gradient_laid_out(normalised, like=x)


def _identity(x: Tensor, channels: int) -> tuple[Tensor | None, Tensor | None]:
    """Weights and biases that change nothing; being float32, they keep the statistics of half precision in float32."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return None, None
    return x.new_ones(channels, dtype=torch.float32), x.new_zeros(channels, dtype=torch.float32)


def _with_gradient_laid_out(normalised: Tensor, *, like: Tensor) -> Tensor:
    """Let the gradient reach the norm in the memory order, and with the strides, of its input."""
    if normalised.requires_grad:
        order = torch.channels_last if _is_channels_last(like) else torch.contiguous_format
        stride = like.stride()
        normalised.register_hook(  # type: ignore[no-untyped-call]  # torch ships this method without annotations
            lambda gradient: _laid_out(gradient, order, stride)
        )
    return normalised


def _laid_out(gradient: Tensor, order: torch.memory_format, stride: tuple[int, ...]) -> Tensor:
    gradient = gradient.contiguous(memory_format=order)
    return gradient if gradient.stride() == stride else gradient.as_strided(gradient.shape, stride)


def _is_channels_last(x: Tensor) -> bool:
    """Whether channels lie last in memory and the strides say so unmistakably, also that of a single image."""
    _, channels, height, width = x.shape
    return not x.is_contiguous() and x.stride() == (channels * height * width, 1, width * channels, channels)
