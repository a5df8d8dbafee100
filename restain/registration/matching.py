"""Block matching between sections by correlation of what both stains share.

Normalised cross-correlation with weights (Padfield, "Masked object registration in the Fourier domain", IEEE TIP 2012).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restain.registration.field import Map, Raster
from restain.registration.fitting import Matches
from restain.registration.warp import places_on

LEAST_OVERLAP = 0.5
"""Least overlap of weights for a shift."""
LEAST_WEIGHT = 0.1
"""Least mean weight of a block to be matched, which excludes bare glass."""
LEAST_CORRELATION = 0.1
"""Least correlation of a match."""
APART = 0.25
"""Another peak is one that lies further from the highest than this share of a block's side."""
_BLOCKS_AT_ONCE = 64


@dataclass(frozen=True)
class Structure:
    """The structure of a section that both stains share, as an image."""

    values: Tensor
    """H x W float, such as the optical density of haematoxylin."""
    weights: Tensor
    """Weight of each value, H x W in [0, 1]; 0 outside the image."""
    box: Raster
    """Where the pixels lie."""

    def seen_through(self, moved: Map, box: Raster) -> "Structure":
        """This section's structure as it would lie in the other section, on the pixels of a box there."""
        places = torch.from_numpy(places_on(moved, box))
        corner = torch.tensor([self.box.x, self.box.y], dtype=torch.float64)[:, None, None]
        half = torch.tensor([self.box.width, self.box.height])[:, None, None] * self.box.mpp / 2
        grid = ((places - corner) / half - 1).permute(1, 2, 0)[None].float()
        both = torch.stack([self.values * self.weights, self.weights])[None].float()
        product, weights = F.grid_sample(both, grid, padding_mode="zeros", align_corners=False)[0]
        return Structure(product / weights.clamp_min(1e-6), weights, box)


def match_blocks(
    first: Structure, second: Structure, start: Map, *, block_px: int, step_px: int, reach_px: int
) -> Matches:
    """Match blocks of one section with the other, near where a map expects them.

    Args:
        first: the section of the blocks; its pixels are the unit of the following arguments.
        second: the section to search.
        start: where they are expected, such as an affine map or a coarser field.
        block_px: side of a block; its centre has most weight.
        step_px: distance of neighbouring blocks.
        reach_px: search radius around the expected position, in x and in y.

    Returns:
        One match for each block that could be matched. The confidence is its correlation, less where another place fits
        nearly as well.
    """
    second = second.seen_through(start, first.box)
    found = _peaks(first, second, block_px, step_px, reach_px)
    points = np.array([first.box.x, first.box.y]) + found.middles.numpy() * first.box.mpp
    return Matches(points, start(points + found.shifts.numpy() * first.box.mpp), found.confidence.numpy())


@dataclass(frozen=True)
class _Peaks:
    middles: Tensor
    """N x 2 (x, y) in px."""
    shifts: Tensor
    """N x 2 (x, y) in px."""
    confidence: Tensor


def _peaks(first: Structure, second: Structure, block_px: int, step_px: int, reach_px: int) -> _Peaks:
    """The best shift of each block, float64."""
    window = block_window(block_px)
    half, around = block_px // 2, block_px // 2 + reach_px
    templates = [squares(part, block_px, step_px, half) for part in (first.values, first.weights)]
    regions = [squares(part, block_px + 2 * reach_px, step_px, around) for part in (second.values, second.weights)]
    rows, columns = (torch.arange(0, side, step_px) for side in first.values.shape)
    middles = torch.cartesian_prod(rows, columns).flip(1).double()
    worth = (templates[1] * window).sum((1, 2)) >= LEAST_WEIGHT * window.sum()
    templates, regions = ([part[worth] for part in parts] for parts in (templates, regions))
    middles = middles[worth]
    kept, shifts, confidence = [], [], []
    for at in range(0, len(middles), _BLOCKS_AT_ONCE):
        part = slice(at, at + _BLOCKS_AT_ONCE)
        surface = correlation(
            templates[0][part], templates[1][part] * window, regions[0][part], regions[1][part], LEAST_OVERLAP
        )
        shift, height, second_height = highest(surface, round(APART * block_px))
        sure = height > LEAST_CORRELATION
        kept.append(middles[part][sure])
        shifts.append((shift - reach_px)[sure].double())
        confidence.append((height * (1 - (second_height / height).clamp(0, 1)) ** 0.5)[sure].double())
    if not kept:
        return _Peaks(middles, middles.clone(), middles.new_zeros(0))
    return _Peaks(torch.cat(kept), torch.cat(shifts), torch.cat(confidence))


def correlation(
    templates: Tensor, template_weights: Tensor, regions: Tensor, region_weights: Tensor, least_overlap: float
) -> Tensor:
    """Weighted normalised cross-correlation of templates at every place inside larger regions.

    Args:
        templates: B x b x b.
        template_weights: the same shape, at least 0.
        regions: B x r x r, r at least b.
        region_weights: the same shape, at least 0.
        least_overlap: share of a template's weight that must meet weight in the region.

    Returns:
        B x (r - b + 1) x (r - b + 1) in [-1, 1]; -1 where too little overlaps or one side is even.
    """
    size = regions.shape[-2:]
    places = [large - small + 1 for large, small in zip(size, templates.shape[-2:], strict=True)]
    templates, weights, regions, around = (x.double() for x in (templates, template_weights, regions, region_weights))
    whole = weights.sum((1, 2), keepdim=True).clamp_min(1e-6)
    offset = (templates * weights).sum((1, 2), keepdim=True) / whole  # changes nothing but the rounding
    templates, regions = templates - offset, regions - offset
    template_parts = (weights, weights * templates, weights * templates**2)
    a, af, aff = (torch.fft.rfft2(part, s=size).conj() for part in template_parts)
    m, mg, mgg = (torch.fft.rfft2(part) for part in (around, around * regions, around * regions**2))

    def summed(one: Tensor, other: Tensor) -> Tensor:
        everywhere: Tensor = torch.fft.irfft2(one * other, s=size)
        return everywhere[:, : places[0], : places[1]]

    total = summed(a, m).clamp_min(1e-6)
    f, ff, g, gg, fg = summed(af, m), summed(aff, m), summed(a, mg), summed(a, mgg), summed(af, mg)
    spread = ((ff - f**2 / total) / total).clamp_min(0) * ((gg - g**2 / total) / total).clamp_min(0)
    result = (fg - f * g / total) / total / spread.sqrt().clamp_min(1e-6)
    enough = total >= least_overlap * whole
    return torch.where(enough & (spread > 1e-10), result.clamp(-1, 1), -1.0).float()


def highest(surface: Tensor, apart: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest peak of each surface, to a fraction of a step by a parabola, and the highest one away from it.

    Args:
        surface: B x h x w.
        apart: how far away another peak must lie, in steps, in x or in y.

    Returns:
        (x, y) of the peak, B x 2, its height, B, and the height of the other, B.
    """
    batch, height, width = surface.shape
    peak, place = surface.flatten(1).max(1)
    y, x = place // width, place % width
    index = torch.arange(batch)
    padded = F.pad(surface[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    fraction = []
    for behind, ahead in (
        (padded[index, y + 1, x], padded[index, y + 1, x + 2]),
        (padded[index, y, x + 1], padded[index, y + 2, x + 1]),
    ):
        bend = behind - 2 * peak + ahead
        fraction.append(torch.where(bend < -1e-6, (behind - ahead) / (2 * bend), 0.0).clamp(-0.5, 0.5))
    rows, columns = torch.arange(height), torch.arange(width)
    far = ((rows - y[:, None]).abs() > apart)[:, :, None] | ((columns - x[:, None]).abs() > apart)[:, None, :]
    other = torch.where(far, surface, -1.0).flatten(1).max(1).values
    return torch.stack([x + fraction[0], y + fraction[1]], 1), peak, other


def block_window(side: int) -> Tensor:
    """How much each pixel of a block counts, side x side."""
    line = torch.exp(-0.5 * ((torch.arange(side) - (side - 1) / 2) / (side / 4)) ** 2)
    return torch.outer(line, line)


def squares(image: Tensor, side: int, step: int, before: int) -> Tensor:
    """Squares of an image, N x side x side, whose pixel `before` lies on each step-th pixel; nothing lies beyond it."""
    height, width = image.shape
    rows, columns = (math.ceil(length / step) for length in (height, width))
    padding = (before, (columns - 1) * step + side - before - width, before, (rows - 1) * step + side - before - height)
    padded = F.pad(image, [*padding[:1], max(0, padding[1]), padding[2], max(0, padding[3])])
    squares = padded.unfold(0, side, step)[:rows].unfold(1, side, step)[:, :columns]
    return squares.reshape(-1, side, side)
