"""Displacement and scale between the two sections of a pair, estimated from the images alone.

Phase correlation (Kuglin & Hines 1975) of the haematoxylin, which both stains share: over the whole tile first, then in
blocks around the shift that was found. The median over blocks is robust against blocks without structure.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restain.stains import rgb_to_hed, to_unit

WORK_PX = 512
"""Longest side for the comparison; larger tiles are downsampled, which costs a pixel or two of precision."""
BLOCK_PX = 192
"""Side of a block at that size; blocks lie 64 px apart."""
REACH_PX = 48
"""Search radius of a block around the shift of the whole tile."""
WHOLE_BLUR_PX, BLOCK_BLUR_PX = 7.0, 3.0
"""Standard deviations of the blur before correlation: neighbouring sections share tissue, not chromatin."""
COARSEST_PX = 40.0
"""Standard deviation of the blur that is subtracted, to remove uneven staining."""
WHITENING = 0.5
"""Exponent of the spectral magnitude that is divided out; 1 is pure phase correlation, which is less robust to rotation
by a few degrees: on real tissue 0.5 found 22 of 22 known shifts, 1 found 21."""
SCALES = (0.5, 1.0, 2.0)
"""Magnifications of the IHC relative to the H&E that are tried: the ratios of scanner objectives."""
TRUSTED_BLOCK = 7.0
"""A block is matched if its peak is this many standard deviations above the mean: nine in ten are then correct."""
TRUSTED_WHOLE = 8.0
"""The same for whole tiles."""


@dataclass(frozen=True)
class Misalignment:
    """Displacement and scale of one pair."""

    median_px: float
    """Median distance over blocks, in px of the tile; NaN if no block could be matched."""
    shift_px: tuple[float, float]
    """Median (dx, dy): the tissue at p in the H&E lies at p + (dx, dy) in the IHC."""
    blocks: int
    """Number of matched blocks."""
    quality: float
    """Standard deviations by which the peak of the whole tiles' correlation exceeds its mean."""
    scale_quality: tuple[float, ...]
    """The same for each of `SCALES`; the median over many pairs is reliable, a single pair is not."""


def misalignment(he: Tensor, ihc: Tensor) -> Misalignment:
    """Estimate the displacement and the scale between the two sides of a pair.

    Args:
        he: H&E, 1 x 3 x H x W in [-1, 1].
        ihc: IHC of the neighbouring section, same shape.
    """
    factor = max(1.0, max(he.shape[-2:]) / WORK_PX)
    first, second = (_structure(images, factor) for images in (he, ihc))
    shift, quality = correlate(first, second, WHOLE_BLUR_PX)
    scales = tuple(_quality_at(first, second, scale) for scale in SCALES)
    shifts = _block_shifts(first[0], second[0], shift[0]) * factor
    if quality < TRUSTED_WHOLE or not len(shifts):
        return Misalignment(math.nan, (math.nan, math.nan), 0, quality.item(), scales)
    dx, dy = shifts.median(0).values.tolist()
    return Misalignment(shifts.norm(dim=1).median().item(), (dx, dy), len(shifts), quality.item(), scales)


def can_be_matched(width: int, height: int) -> bool:
    """Whether a tile of this size contains a block at the size of the comparison."""
    factor = max(1.0, max(width, height) / WORK_PX)
    return min(round(side / factor) for side in (width, height)) >= BLOCK_PX


def correlate(first: Tensor, second: Tensor, blur_px: float, reach_px: int | None = None) -> tuple[Tensor, Tensor]:
    """Find the shift between images by phase correlation.

    Args:
        first: images, B x H x W.
        second: their partners, same shape; first(p) corresponds to second(p + shift).
        blur_px: standard deviation of the blur before.
        reach_px: largest shift in x and in y; None is half of the image.

    Returns:
        Shifts (dx, dy) in px, B x 2, and how many standard deviations each peak lies above the mean, B.
    """
    height, width = first.shape[-2:]
    window = torch.outer(torch.hann_window(height, periodic=False), torch.hann_window(width, periodic=False))
    spectra = [torch.fft.rfft2(_centred(images) * window) for images in (first, second)]
    cross = spectra[0].conj() * spectra[1]
    radius = torch.fft.fftfreq(height)[:, None] ** 2 + torch.fft.rfftfreq(width) ** 2
    fine, coarse = (torch.exp(-2 * (math.pi * px) ** 2 * radius) for px in (blur_px, COARSEST_PX))
    whitened = cross / (cross.abs() + 1e-9) ** WHITENING * fine * (1 - coarse)
    surface = torch.fft.fftshift(torch.fft.irfft2(whitened, s=(height, width)), dim=(-2, -1))
    top, left = height // 2, width // 2
    reach_y, reach_x = (min(reach_px or side // 2, (side - 1) // 2) for side in (height, width))
    near = surface[:, top - reach_y : top + reach_y + 1, left - reach_x : left + reach_x + 1]
    peak, place = near.flatten(1).max(1)
    columns = near.shape[-1]
    shifts = torch.stack([place % columns - reach_x, place // columns - reach_y], 1).to(first)
    return shifts, (peak - surface.mean((1, 2))) / surface.std((1, 2)).clamp_min(1e-12)


def _structure(images: Tensor, factor: float) -> Tensor:
    """Haematoxylin of a tile at the size of comparison, 1 x h x w."""
    size = [max(1, round(side / factor)) for side in images.shape[-2:]]
    small = F.interpolate(images, size, mode="area") if factor > 1 else images
    return rgb_to_hed(to_unit(small))[:, 0]


def _block_shifts(first: Tensor, second: Tensor, around: Tensor) -> Tensor:
    """Shifts (dx, dy) of the blocks that could be matched, M x 2; each is searched near the shift of the whole tile."""
    dx, dy = (int(value) for value in around.tolist())
    height, width = first.shape
    blocks, partners = [], []
    for y in range(0, height - BLOCK_PX + 1, 64):
        for x in range(0, width - BLOCK_PX + 1, 64):
            inside = 0 <= y + dy <= height - BLOCK_PX and 0 <= x + dx <= width - BLOCK_PX
            if inside:
                blocks.append(first[y : y + BLOCK_PX, x : x + BLOCK_PX])
                partners.append(second[y + dy : y + dy + BLOCK_PX, x + dx : x + dx + BLOCK_PX])
    if not blocks:
        return first.new_zeros(0, 2)
    shifts, quality = correlate(torch.stack(blocks), torch.stack(partners), BLOCK_BLUR_PX, REACH_PX)
    return shifts[quality > TRUSTED_BLOCK] + around


def _quality_at(first: Tensor, second: Tensor, scale: float) -> float:
    """How well they fit if the second has `scale` times the scale of the first; the larger is reduced to match."""
    large, small = (second, first) if scale > 1 else (first, second)
    ratio = max(scale, 1 / scale)
    shrunk = F.interpolate(large[None], scale_factor=1 / ratio, mode="area")[0]
    top, left = ((a - b) // 2 for a, b in zip(small.shape[-2:], shrunk.shape[-2:], strict=True))
    middle = small[:, top : top + shrunk.shape[-2], left : left + shrunk.shape[-1]]
    pair = (middle, shrunk) if scale > 1 else (shrunk, middle)
    return correlate(*pair, BLOCK_BLUR_PX)[1].item()


def _centred(images: Tensor) -> Tensor:
    return images - images.mean((-2, -1), keepdim=True)
