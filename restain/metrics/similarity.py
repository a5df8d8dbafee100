"""Pixel-wise similarity of two images: SSIM, MS-SSIM and PSNR.

They need registered images. On adjacent sections, where cells are displaced, they say little about a stain.
"""

import torch
from torch import Tensor

from restain.losses.similarity import MS_SSIM_SMALLEST_PX, SCALE_WEIGHTS, ms_ssim, ssim
from restain.tensors import same_shape

__all__ = ["LUMA", "MS_SSIM_SMALLEST_PX", "ROUNDING", "SCALE_WEIGHTS", "ms_ssim", "psnr", "ssim", "ssim_grey"]

ROUNDING = 1 / 12 / 255**2
"""Mean squared error of rounding a value in [0, 1] to 8 bits: uniform up to half a grey level."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601, as in Pillow and OpenCV)."""


def ssim_grey(virtual: Tensor, real: Tensor) -> Tensor:
    """SSIM of the two images' grey (BT.601) versions; see `ssim`. N x 3 x H x W in [0, 1] to N."""
    weights = virtual.new_tensor(LUMA).view(1, 3, 1, 1)
    return ssim((virtual * weights).sum(1, keepdim=True), (real * weights).sum(1, keepdim=True))


def psnr(virtual: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB over all channels, data range 1.

    8-bit images are exact only to `ROUNDING`, so the mean squared error is at least that: equal images have 58.9 dB,
    and the mean over tiles stays finite.

    Args:
        virtual: images, N x C x H x W in [0, 1].
        real: their partners, same shape.

    Returns:
        One value per image, N; at most 58.9.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, real=real)
    return -10 * torch.log10((virtual - real).square().mean((1, 2, 3)).clamp_min(ROUNDING))
