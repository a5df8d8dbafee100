"""3 x 3 convolutions of many channels by a quarter of the multiplications (Winograd 1980; Lavin & Gray 2016).

A tile of 6 x 6 pixels becomes 36 numbers, in which the convolution is a product; 36 matrix products over the channels
then give 4 x 4 pixels each. CPUs that multiply float32 no faster than they add it gain; rounding errors are some ten
times those of the plain convolution, as with the same algorithm on GPUs. Gradients are those of this computation.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

LEAST_CHANNELS = 96
"""With fewer, in or out, the transforms cost more than they save."""
_TILE, _WINDOW = 4, 6
_TILES = 256
"""So many at a time are enough for fast products; all at once take much memory, and longer."""

# the points 0, 1, -1, 2, -2 and infinity; rows of the three transforms
_PIXELS = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0]]
_PIXELS += [[0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
_KERNEL = [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
_KERNEL += [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]]
_RESULT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def fits(x: Tensor, weight: Tensor, padding: tuple[int, int]) -> bool:
    """Whether a convolution of that input, before its padding, can be computed so, and is faster."""
    if weight.shape[2:] != (3, 3) or min(weight.shape[:2]) < LEAST_CHANNELS:
        return False
    sides = (side + 2 * pad - 2 for side, pad in zip(x.shape[2:], padding, strict=True))
    plain = x.device.type == "cpu" and x.dtype == weight.dtype and x.dtype in (torch.float32, torch.float64)
    return plain and all(side > 0 and side % _TILE == 0 for side in sides)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The convolution without padding, N x C x H+2 x W+2 to N x D x H x W; autograd does not follow it.

    Args:
        x: H and W are multiples of 4.
        weight: D x C x 3 x 3.
        bias: D.

    Returns:
        Channels last in memory.
    """
    kernels = _transformed_kernels(weight).mT
    bands = [_joined(_transformed_windows(x[:, :, seen]) @ kernels, x[:, :, seen].shape) for _, seen in _bands(x.shape)]
    result = bands[0] if len(bands) == 1 else torch.cat(bands, dim=2)
    return result if bias is None else result.add_(bias.view(-1, 1, 1))


def gradients(
    x: Tensor, weight: Tensor, gradient: Tensor, wants_x: bool, wants_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of `convolve` by x and by the weight, from that by its result; x has no say in its own."""
    channels_out, channels_in = weight.shape[:2]
    kernels = _transformed_kernels(weight)
    bands = list(_bands(x.shape))
    of_x = torch.zeros_like(x) if wants_x and len(bands) > 1 else None
    of_kernels: Tensor | None = None
    for rows, seen in bands:
        products = _joined_backwards(gradient[:, :, rows])
        if wants_x:
            of_band = _transformed_windows_backwards(products @ kernels, x[:, :, seen].shape)
            if of_x is None:
                of_x = of_band
            else:
                of_x[:, :, seen] += of_band
        if wants_weight:
            of_band = products.mT @ _transformed_windows(x[:, :, seen])
            of_kernels = of_band if of_kernels is None else of_kernels.add_(of_band)
    if of_kernels is None:
        return of_x, None
    of_weight = (_matrix(_KERNEL, weight).mT @ of_kernels.flatten(1)).view(3, 3, channels_out, channels_in)
    return of_x, of_weight.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


def _bands(shape: torch.Size) -> Iterator[tuple[slice, slice]]:
    """Rows of the result, and the rows of x (N x C x H+2 x W+2) that they are made of, from top to bottom."""
    batch, _, height, width = shape
    step = _TILE * max(1, _TILES // (batch * (width // _TILE)))
    for start in range(0, height - 2, step):
        stop = min(start + step, height - 2)
        yield slice(start, stop), slice(start, stop + 2)


def _matrix(rows: list[list[Any]], like: Tensor) -> Tensor:
    """A transform of both sides of a square, as one matrix."""
    one = torch.tensor(rows, dtype=torch.float64)
    return torch.kron(one, one).to(like.dtype)


def _transformed_kernels(weight: Tensor) -> Tensor:
    """D x C x 3 x 3 to 36 x D x C."""
    channels_out, channels_in = weight.shape[:2]
    kernels = weight.permute(2, 3, 0, 1).reshape(9, -1)
    return (_matrix(_KERNEL, weight) @ kernels).view(-1, channels_out, channels_in)


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
