"""Halving with a binomial blur, whose gradient is a doubling: PyTorch's own takes many times as long in bfloat16."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from restain.networks.reflection import reflected
from restain.tensors import is_followed


def blurred_half(x: Tensor, kernel: Tensor) -> Tensor:
    """Blur with [1, 2, 1] along each side, borders reflected, and keep every second pixel.

    Args:
        x: N x C x H x W, at least 2 px a side.
        kernel: the binomial 1 x 1 x 3 x 3.

    Returns:
        N x C x ceil(H/2) x ceil(W/2).
    """
    if x.device.type == "cpu" and not is_followed():
        halved: Tensor = _BlurredHalf.apply(x, kernel)  # type: ignore[no-untyped-call]  # torch's
        return halved
    with torch.autocast(x.device.type, enabled=False):  # which would convert to float32 and back on a CPU
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
    return _filtered(padded, kernel)


class _BlurredHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: Tensor) -> Tensor:
        ctx.height, ctx.width = x.shape[2:]
        return _filtered(reflected(x, (1, 1)), kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """A padded row 2i + 1 gets half of the gradient's row i, and 2i a quarter of rows i - 1 and i; columns too.

        That is linear interpolation between the gradient's rows, and zeros around them.
        """
        high, wide = gradient.shape[2:]
        between = F.interpolate(
            F.pad(gradient, (1, 1, 1, 1)), size=(2 * high + 3, 2 * wide + 3), mode="bilinear", align_corners=True
        )
        padded = between[..., 1:-1, 1:-1].mul_(1 / 4)
        padded[..., 2, :] += padded[..., 0, :]
        padded[..., 2] += padded[..., 0]
        if ctx.height % 2:
            padded[..., ctx.height - 1, :] += padded[..., ctx.height + 1, :]
        if ctx.width % 2:
            padded[..., ctx.width - 1] += padded[..., ctx.width + 1]
        return padded[..., 1 : 1 + ctx.height, 1 : 1 + ctx.width], None


def _filtered(padded: Tensor, kernel: Tensor) -> Tensor:
    channels = padded.shape[1]
    return F.conv2d(padded, kernel.to(padded.dtype).expand(channels, 1, -1, -1), stride=2, groups=channels)
