"""Structural similarity of registered images, as differentiable metrics and losses."""

import math

import torch.nn.functional as F
from torch import Tensor

from restain.errors import ShapeError
from restain.stains import to_unit
from restain.tensors import full_precision, same_shape

WINDOW_PX = 11
"""Side of SSIM's window."""
SIGMA_PX = 1.5
"""Standard deviation of SSIM's Gaussian weights."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM, the finest scale first (Wang et al. 2003, section 3.2)."""


def ms_ssim_smallest_px(scales: int) -> int:
    """The shortest side whose coarsest scale contains SSIM's window."""
    return ((WINDOW_PX - 1) << (scales - 1)) + 1


MS_SSIM_SMALLEST_PX = ms_ssim_smallest_px(len(SCALE_WEIGHTS))
"""Shortest side for all five scales."""


@full_precision
def ssim(virtual: Tensor, real: Tensor) -> Tensor:
    """Structural similarity, the mean over pixels and channels (Wang et al. 2004, equation 13).

    Gaussian window of 11 px, sigma 1.5; data range 1, K1 = 0.01, K2 = 0.03; population variances; only pixels whose
    window lies inside the image count.

    Args:
        virtual: images, N x C x H x W in [0, 1].
        real: their partners, same shape.

    Returns:
        One value in [-1, 1] per image, N; 1 for equal images.

    Raises:
        ShapeError: the shapes differ, or a side is shorter than the window.
    """
    same_shape(virtual=virtual, real=real)
    if min(virtual.shape[-2:]) < WINDOW_PX:
        height, width = virtual.shape[-2:]
        raise ShapeError(f"SSIM has a window of {WINDOW_PX} px; an image of {width}×{height} px is too small")
    luminance, contrast_structure = _ssim_terms(virtual, real)
    return (luminance * contrast_structure).mean((1, 2, 3))


@full_precision
def ms_ssim(virtual: Tensor, real: Tensor, scales: int = len(SCALE_WEIGHTS)) -> Tensor:
    """SSIM over several scales, each half the size of the last (Wang et al. 2003, equation 7); mean over channels.

    Contrast and structure count at every scale, luminance at the coarsest alone; constants as in `ssim`. A scale whose
    mean is negative counts as 0, as in the tools of the field, since it has no real power.

    Args:
        virtual: images, N x C x H x W in [0, 1].
        real: their partners, same shape.
        scales: how many, 1 to 5; with fewer than five, the exponents of the finest ones are brought to the same sum.

    Returns:
        One value in [0, 1] per image, N.

    Raises:
        ShapeError: the shapes differ, or a side is shorter than `ms_ssim_smallest_px(scales)`, 161 px for all five.
    """
    same_shape(virtual=virtual, real=real)
    if min(virtual.shape[-2:]) < ms_ssim_smallest_px(scales):
        height, width = virtual.shape[-2:]
        raise ShapeError(
            f"MS-SSIM needs sides of {ms_ssim_smallest_px(scales)} px; an image of {width}×{height} px is too small"
        )
    weights = SCALE_WEIGHTS[:scales]
    rest = sum(SCALE_WEIGHTS) / sum(weights)
    product = virtual.new_ones(virtual.shape[:2])
    for scale, weight in enumerate(weights):
        if scale:
            odd = [length % 2 for length in virtual.shape[-2:]]
            virtual, real = (F.avg_pool2d(x, 2, padding=odd) for x in (virtual, real))
        luminance, contrast_structure = _ssim_terms(virtual, real)
        whole = luminance * contrast_structure if scale == scales - 1 else contrast_structure
        product = product * whole.mean((2, 3)).relu() ** (weight * rest)
    return product.mean(1)


@full_precision
def ssim_loss(virtual: Tensor, real: Tensor) -> Tensor:
    """1 - SSIM, the mean over images (Zhao et al. 2017).

    Args:
        virtual: images, N x C x H x W in [-1, 1].
        real: registered partners, same shape.

    Returns:
        A scalar in [0, 2]; 0 for equal images.

    Raises:
        ShapeError: as in `ssim`.
    """
    return 1 - ssim(to_unit(virtual), to_unit(real)).mean()


def _ssim_terms(virtual: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure, at every pixel with a whole window: N x C x H' x W' each."""
    floor_mean, floor_variance = 0.01**2, 0.03**2
    # Moments about mid-grey instead of 0: the variances come out the same, with less rounding in float32.
    v, r = virtual - 0.5, real - 0.5
    mean_v, mean_r, square_v, square_r, product = (_blur(x) for x in (v, r, v * v, r * r, v * r))
    variance_v, variance_r = square_v - mean_v.square(), square_r - mean_r.square()
    covariance = product - mean_v * mean_r
    mean_v, mean_r = mean_v + 0.5, mean_r + 0.5
    luminance = (2 * mean_v * mean_r + floor_mean) / (mean_v.square() + mean_r.square() + floor_mean)
    contrast_structure = (2 * covariance + floor_variance) / (variance_v + variance_r + floor_variance)
    return luminance, contrast_structure


def _blur(images: Tensor) -> Tensor:
    """Weighted means over the window, rows then columns; no padding.

    Shifted sums: on a CPU they take a fiftieth of the time of a convolution with one channel.
    """
    offsets = range(-(WINDOW_PX // 2), WINDOW_PX // 2 + 1)
    weights = [math.exp(-(offset**2) / (2 * SIGMA_PX**2)) for offset in offsets]
    for dim in (-1, -2):
        length = images.shape[dim] - WINDOW_PX + 1
        blurred = images.narrow(dim, 0, length) * (weights[0] / sum(weights))
        for start, weight in enumerate(weights[1:], start=1):
            blurred.add_(images.narrow(dim, start, length), alpha=weight / sum(weights))
        images = blurred
    return images
