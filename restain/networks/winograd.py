"""3 x 3 convolutions of many channels by a quarter of the multiplications (Winograd 1980; Lavin & Gray 2016).

A tile of 6 x 6 pixels becomes 36 numbers, in which the convolution is a product; 36 matrix products over the channels
then give 4 x 4 pixels each. CPUs that multiply float32 no faster than they add it gain; rounding errors are some ten
times those of the plain convolution, as with the same algorithm on GPUs. Gradients are those of this computation.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LEAST_CHANNELS = 96
"""With fewer, in or out, the transforms cost more than they save."""
_TILE, _WINDOW = 4, 6

# the points 0, 1, -1, 2, -2 and infinity; rows of the three transforms
_PIXELS = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
_PIXELS += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
_KERNEL = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
_KERNEL += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
_RESULT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]

_wanted: ContextVar[bool] = ContextVar("winograd", default=False)


class Conv2d(nn.Conv2d):
    """PyTorch's convolution, which takes the way of this module where `fewer_multiplications` allows it and it fits."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  # PyTorch's
        if not (_wanted.get() and self._fits(input, weight)):
            usual: Tensor = super()._conv_forward(input, weight, bias)
            return usual
        high, wide = (int(side) for side in self.padding)
        if high or wide:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = F.pad(input, (wide, wide, high, high), mode)  # noqa: A001
        return convolve(input, weight, bias)

    def _fits(self, x: Tensor, weight: Tensor) -> bool:
        usual = self.kernel_size == (3, 3) and self.stride == self.dilation == (1, 1) and self.groups == 1
        if not usual or min(weight.shape[:2]) < LEAST_CHANNELS or isinstance(self.padding, str) or x.ndim != 4:
            return False
        sides = (side + 2 * int(padding) - 2 for side, padding in zip(x.shape[2:], self.padding, strict=True))
        plain = x.device.type == "cpu" and x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
        return plain and all(side > 0 and side % _TILE == 0 for side in sides) and not torch.compiler.is_compiling()


@contextmanager
def fewer_multiplications(wanted: bool = True) -> Iterator[None]:
    """Within the context `Conv2d` may compute so; each that fits does."""
    before = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(before)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution without padding, N x C x H+2 x W+2 to N x D x H x W.

    Args:
        x: H and W are multiples of 4.
        weight: D x C x 3 x 3.
        bias: D.

    Returns:
        Channels last in memory.
    """
    result: Tensor = _Convolution.apply(x, weight)  # type: ignore[no-untyped-call]  # torch's
    return result if bias is None else result + bias.view(-1, 1, 1)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _joined(_transformed_windows(x) @ _transformed_kernels(weight), x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        products = _joined_backwards(gradient)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _transformed_windows_backwards(products @ _transformed_kernels(weight).mT, x.shape)
        if ctx.needs_input_grad[1]:
            kernels = (_transformed_windows(x).mT @ products).flatten(1)  # 36 x C D
            channels_out, channels_in = weight.shape[:2]
            of_weight = (_matrix(_KERNEL, weight).mT @ kernels).view(3, 3, channels_in, channels_out)
            of_weight = of_weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        return of_x, of_weight


def _matrix(rows: list[list[Any]], like: Tensor) -> Tensor:
    """A transform of both sides of a square, as one matrix."""
    one = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(one, one).to(like.dtype)


def _transformed_kernels(weight: Tensor) -> Tensor:
    """D x C x 3 x 3 to 36 x C x D."""
    channels_out, channels_in = weight.shape[:2]
    kernels = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_matrix(_KERNEL, weight) @ kernels).view(-1, channels_in, channels_out)


def _transformed_windows(x: Tensor) -> Tensor:
    """N x C x H+2 x W+2 to 36 x tiles x C."""
    windows = x.unfold(2, _WINDOW, _TILE).unfold(3, _WINDOW, _TILE)  # N x C x h x w x 6 x 6
    windows = windows.permute(4, 5, 0, 2, 3, 1).reshape(_WINDOW**2, -1)
    return (_matrix(_PIXELS, x) @ windows).view(_WINDOW**2, -1, x.shape[1])


def _transformed_windows_backwards(gradient: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of the above: windows overlap by two pixels, where they are summed."""
    batch, channels, height, width = shape
    rows, columns = height // _TILE, width // _TILE
    windows = (_matrix(_PIXELS, gradient).mT @ gradient.flatten(1)).view(6, 6, batch, rows, columns, channels)
    wide = gradient.new_zeros(batch, rows + 1, _TILE, columns + 1, _TILE, channels)
    tiles = windows.permute(2, 3, 0, 4, 1, 5)  # N x h x 6 x w x 6 x C
    wide[:, :-1, :, :-1] = tiles[:, :, :4, :, :4]
    wide[:, :-1, :, 1:, :2] += tiles[:, :, :4, :, 4:]
    wide[:, 1:, :2, :-1] += tiles[:, :, 4:, :, :4]
    wide[:, 1:, :2, 1:, :2] += tiles[:, :, 4:, :, 4:]
    whole = wide.view(batch, (rows + 1) * _TILE, (columns + 1) * _TILE, channels)
    return whole[:, :height, :width].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _joined(products: Tensor, shape: torch.Size) -> Tensor:
    """36 x tiles x D to N x D x H x W."""
    batch, rows, columns = shape[0], shape[2] // _TILE, shape[3] // _TILE
    pixels = (_matrix(_RESULT, products) @ products.flatten(1)).view(_TILE, _TILE, batch, rows, columns, -1)
    pixels = pixels.permute(2, 3, 0, 4, 1, 5).reshape(batch, rows * _TILE, columns * _TILE, -1)
    return pixels.permute(0, 3, 1, 2)


def _joined_backwards(gradient: Tensor) -> Tensor:
    """The gradient of the above, 36 x tiles x D."""
    batch, channels, height, width = gradient.shape
    pixels = gradient.permute(0, 2, 3, 1).reshape(batch, height // _TILE, _TILE, width // _TILE, _TILE, channels)
    pixels = pixels.permute(2, 4, 0, 1, 3, 5).reshape(_TILE**2, -1)
    return (_matrix(_RESULT, gradient).mT @ pixels).view(_WINDOW**2, -1, channels)
