"""Dense normalisation: every pixel has statistics of its own, between those of the tiles around it.

Source: Ho et al., "Every Pixel Has its Moments" (ECCV 2024). Each tile is first stained alone and leaves the mean and
deviation of every instance norm; then each pixel of each layer is normalised by both, interpolated bilinearly between
the centres of the tiles. Their layer sees only the tile itself at a time; here a tile also sees a halo, without which
its edges would still show.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from restain.image import RGB, to_tensor
from restain.networks.norm import evaluating, instance_norms
from restain.networks.stainer import Stainer
from restain.slides.tiling import Box, tiles

_MOST = 32
"""Tiles along a side that leave statistics, at most."""


@dataclass(frozen=True)
class DenseStatistics:
    """What the tiles of one image leave behind, on the grid of their centres."""

    x: NDArray[np.float64]
    """Centres of the columns of tiles, in px."""
    y: NDArray[np.float64]
    """Centres of the rows of tiles, in px."""
    mean: Mapping[str, Tensor]
    """By the name of the layer, C x rows x columns."""
    deviation: Mapping[str, Tensor]
    """The root of variance plus epsilon, C x rows x columns."""


@torch.no_grad()
def dense_statistics(
    generator: Stainer, size: tuple[int, int], read: Callable[[Box], RGB], *, tile_px: int
) -> DenseStatistics:
    """Stain each tile alone for its statistics.

    Args:
        generator: not changed.
        size: width and height of the image in px, multiples of the generator's.
        read: the pixels of a box, H x W x 3 uint8.
        tile_px: side of a tile, such a multiple; the last of a row or column overlaps the one before. Where there
            would be more than 32 in a row or column, they lie farther apart, so that neither memory nor time grows with
            a slide.
    """
    device = next(generator.parameters()).device
    spacing = tile_px * -(-max(size) // (tile_px * _MOST))
    boxes = [_middle(tile.window, tile_px, generator.multiple) for tile in tiles(size, spacing, 0, generator.multiple)]
    x, y = (
        sorted({corner + length / 2 for corner, length in sides}) for sides in zip(*map(_sides, boxes), strict=True)
    )
    found: dict[str, list[Tensor]] = {name: [] for name in instance_norms(generator)}

    def record(name: str, features: Tensor) -> None:
        found[name].append(torch.stack(torch.var_mean(features.float(), (0, 2, 3), correction=0)))

    with evaluating(generator), _norms_call(generator, record):
        for box in boxes:
            generator(to_tensor(read(box)).to(device))
    mean, deviation = {}, {}
    for name, norm in instance_norms(generator).items():
        variance, mean[name] = torch.stack(found[name], -1).reshape(2, -1, len(y), len(x))
        deviation[name] = (variance + norm.eps).sqrt()
    return DenseStatistics(np.array(x), np.array(y), mean, deviation)


@torch.no_grad()
def stain_densely(generator: Stainer, statistics: DenseStatistics, window: Tensor, place: Box) -> Tensor:
    """Stain one window with statistics that change from pixel to pixel.

    Args:
        generator: not changed.
        statistics: of the image.
        window: 1 x 3 x H x W in [-1, 1], on the generator's device.
        place: where the window lies in the image.

    Returns:
        1 x 3 x H x W in [-1, 1].
    """

    def normalise(name: str, features: Tensor) -> Tensor:
        rows = _weights(statistics.y, place.y, place.height, features.shape[-2]).to(features)
        columns = _weights(statistics.x, place.x, place.width, features.shape[-1]).to(features)
        mean, deviation = (
            torch.einsum("crk,hr,wk->chw", table[name].to(features), rows, columns)
            for table in (statistics.mean, statistics.deviation)
        )
        return mean[None].neg_().add_(features).div_(deviation)  # the tables are large: no more of them than needed

    with evaluating(generator), _norms_call(generator, normalise):
        stained: Tensor = generator(window)
    return stained


@contextmanager
def _norms_call(generator: Stainer, function: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Let each instance norm show its input to a function, and return what that returns instead, if anything."""
    handles = [
        norm.register_forward_hook(lambda _, inputs, __, name=name: function(name, inputs[0]))
        for name, norm in instance_norms(generator).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _middle(box: Box, side: int, multiple: int) -> Box:
    """The square in the middle of a box; all of it, where that is not larger."""
    width, height = min(box.width, side), min(box.height, side)
    x, y = (spare // 2 // multiple * multiple for spare in (box.width - width, box.height - height))
    return Box(box.x + x, box.y + y, width, height)


def _sides(box: Box) -> tuple[tuple[int, int], tuple[int, int]]:
    return (box.x, box.width), (box.y, box.height)


def _weights(centres: NDArray[np.float64], start: int, length_px: int, length: int) -> Tensor:
    """How much each tile counts at each pixel of a feature map, along one side: length x tiles, rows sum to 1."""
    places = start + (np.arange(length) + 0.5) * (length_px / length)
    return torch.from_numpy(np.stack([np.interp(places, centres, one) for one in np.eye(len(centres))], axis=1))
