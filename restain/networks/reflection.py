"""Reflection padding by copies into one buffer, in either memory order, and its gradient."""

import torch
from torch import Tensor


def reflected(x: Tensor, padding: tuple[int, int]) -> Tensor:
    """N x C x H x W to N x C x H+2h x W+2w in the memory order of x; rows and columns at the edge are not repeated.

    Args:
        x: H > h and W > w.
        padding: h and w, px.
    """
    high, wide = padding
    batch, channels, height, width = x.shape
    if high >= height or wide >= width:  # PyTorch says what is wrong
        return torch.nn.functional.pad(x, (wide, wide, high, high), mode="reflect")
    order = torch.contiguous_format if x.is_contiguous() else torch.channels_last
    shape = (batch, channels, height + 2 * high, width + 2 * wide)
    padded = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=order)
    padded[..., high : high + height, wide : wide + width] = x
    for distance in range(1, high + 1):
        padded[..., high - distance, wide : wide + width] = x[..., distance, :]
        padded[..., high + height - 1 + distance, wide : wide + width] = x[..., height - 1 - distance, :]
    for distance in range(1, wide + 1):
        padded[..., wide - distance] = padded[..., wide + distance]
        padded[..., wide + width - 1 + distance] = padded[..., wide + width - 1 - distance]
    return padded


def fold_back(gradient: Tensor, padding: tuple[int, int]) -> Tensor:
    """The gradient of `reflected`: a view of the gradient of its result, which is changed.

    Args:
        gradient: N x C x H+2h x W+2w.
        padding: h and w, px.

    Returns:
        N x C x H x W.
    """
    high, wide = padding
    height, width = gradient.shape[2] - 2 * high, gradient.shape[3] - 2 * wide
    for distance in range(1, wide + 1):
        gradient[..., wide + distance] += gradient[..., wide - distance]
        gradient[..., wide + width - 1 - distance] += gradient[..., wide + width - 1 + distance]
    inside = gradient[..., wide : wide + width]
    for distance in range(1, high + 1):
        inside[..., high + distance, :] += inside[..., high - distance, :]
        inside[..., high + height - 1 - distance, :] += inside[..., high + height - 1 + distance, :]
    return inside[..., high : high + height, :]
