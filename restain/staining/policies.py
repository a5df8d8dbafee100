"""What the tiles of one image are normalised by: the norm policies, each as a function that stains windows."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from restain.errors import InputError
from restain.networks.norm import NormStatistics, freeze, instance_norms
from restain.networks.published_test import check_local
from restain.networks.stainer import Stainer
from restain.slides.tiling import Box, tiles
from restain.staining.dense import dense_statistics, stain_densely
from restain.staining.statistics import SAMPLE_PX, load_statistics, sample_statistics

RGB = NDArray[np.uint8]

Norm = Literal["slide", "dense", "tile"]
"""`slide`: statistics over a sample of tiles together, the same for all. `dense`: those of single tiles, interpolated
from pixel to pixel. `tile`: each tile has its own, as in the published code; leaves seams."""

NORMS: tuple[Norm, ...] = get_args(Norm)

Network = Callable[[Tensor, Box], Tensor]
"""Stains windows, N x 3 x H x W in [-1, 1] on any device, that lie at one place of N images."""


def tiled_network(
    generator: Stainer, norm: Norm, size: tuple[int, int], read: Callable[[Box], RGB], *, tile_px: int
) -> Network:
    """Prepare a generator for one image that is stained in tiles.

    Args:
        generator: in evaluation mode; not changed.
        norm: the policy. Without instance norm in the generator, all give the same.
        size: width and height of the image in px, multiples of the generator's.
        read: the pixels of a box, H x W x 3 uint8.
        tile_px: side of the tiles, such a multiple; `dense` takes its statistics from them.

    Raises:
        InputError: tiles are to share statistics, and the generator is to take those of each image.
    """
    if norm != "tile":
        check_local(generator)
    device = next(generator.parameters()).device
    if norm == "dense":
        grid = dense_statistics(generator, size, read, tile_px=tile_px)
        return lambda windows, place: torch.cat(
            [stain_densely(generator, grid, window[None], place) for window in windows.to(device)]
        )
    if norm == "slide" and instance_norms(generator):
        candidates = list(tiles(size, SAMPLE_PX, generator.halo_px, generator.multiple))
        generator = freeze(generator, sample_statistics(generator, candidates, read))
    return lambda windows, _: generator(windows.to(device))


def find_norm(given: str, model: str = "") -> Norm | NormStatistics:
    """Read what a user asks for: the name of a policy, or a file of statistics.

    Args:
        given: one of `NORMS`, or a path.
        model: as in `load_statistics`.

    Raises:
        InputError, MissingError: as in `load_statistics`; or it is neither.
    """
    policy: Norm | None = next((norm for norm in NORMS if norm == given), None)
    if policy is None and not Path(given).suffix:
        raise InputError(f"--norm {given}: expected one of {', '.join(NORMS)}, or a file of statistics (*.safetensors)")
    return policy or load_statistics(Path(given), model=model)
