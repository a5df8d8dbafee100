"""Norm policies: the statistics that normalise the tiles of an image. Each is a type; `find_norm` parses names."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from restain.errors import InputError
from restain.image import RGB
from restain.networks.norm import NormStatistics, freeze, instance_norms
from restain.networks.published_test import check_local
from restain.networks.stainer import Stainer
from restain.slides.tiling import Box, tiles
from restain.staining.dense import dense_statistics, stain_densely
from restain.staining.statistics import SAMPLE_PX, check_model, read_statistics, sample_statistics


@dataclass(frozen=True)
class SlideNorm:
    """Statistics over a sample of tiles together, the same for all tiles of an image."""

    word: ClassVar[str] = "slide"


@dataclass(frozen=True)
class DenseNorm:
    """Statistics of single tiles, interpolated from pixel to pixel."""

    word: ClassVar[str] = "dense"


@dataclass(frozen=True)
class TileNorm:
    """Statistics of each tile alone, as in the published code; leaves seams."""

    word: ClassVar[str] = "tile"


@dataclass(frozen=True)
class SharedNorm:
    """Given statistics, such as those of another slide or of a cohort, for every image."""

    statistics: NormStatistics = field(repr=False, compare=False)
    model: str = ""
    """The sha256 of the weights that they belong to, if known."""
    path: Path | None = None
    """The file that they come from."""

    @property
    def word(self) -> str:
        """Text for the provenance of a slide."""
        return str(self.path or "given")

    @property
    def digest(self) -> str:
        """A hash of the statistics and their model, independent of their file."""
        found = hashlib.sha256(self.model.encode())
        for name, moments in sorted(self.statistics.items()):
            found.update(name.encode())
            for values in (moments.mean, moments.variance):
                found.update(values.cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    @classmethod
    def read(cls, path: Path) -> "SharedNorm":
        """Read a file of statistics.

        Raises:
            MissingError, InputError: as in `read_statistics`.
        """
        statistics, model = read_statistics(path)
        return cls(statistics, model, path)


NormPolicy = SlideNorm | DenseNorm | TileNorm | SharedNorm

POLICIES: Mapping[str, NormPolicy] = {norm.word: norm for norm in (SlideNorm(), DenseNorm(), TileNorm())}
"""The policies without parameters, by name."""

WindowStainer = Callable[[Tensor, Box], Tensor]
"""Stains windows, N x 3 x H x W in [-1, 1] on any device, at the same position of N images."""


def find_norm(words: str) -> NormPolicy:
    """Parse the name of a policy, which takes precedence over files of that name, or the path of a file of statistics.

    Args:
        words: a name in `POLICIES`, or a path.

    Raises:
        InputError, MissingError: as in `SharedNorm.read`; or it is neither.
    """
    if words in POLICIES:
        return POLICIES[words]
    if not Path(words).suffix:
        raise InputError(f"norm '{words}': expected {', '.join(POLICIES)}, or a file of statistics (*.safetensors)")
    return SharedNorm.read(Path(words))


def check_norm(norm: NormPolicy, model: str) -> None:
    """Check that given statistics belong to a model.

    Args:
        norm: the policy.
        model: sha256 of the weights.

    Raises:
        InputError: they belong to another one.
    """
    if isinstance(norm, SharedNorm):
        check_model(norm.path or "the statistics", norm.model, model)


def tiled_network(
    generator: Stainer, norm: NormPolicy, size: tuple[int, int], read: Callable[[Box], RGB], *, tile_px: int
) -> WindowStainer:
    """Prepare a generator for one image that is stained in tiles.

    Args:
        generator: in evaluation mode; not changed.
        norm: the policy. Without instance norm in the generator, all give the same.
        size: width and height of the image in px, multiples of the generator's.
        read: the pixels of a box, H x W x 3 uint8.
        tile_px: side of the tiles, such a multiple; dense normalisation takes its statistics from them.

    Raises:
        InputError: tiles are to share statistics, and the generator is to take those of each image.
        ShapeError: the statistics given belong to another generator.
    """
    if not isinstance(norm, TileNorm):
        check_local(generator)
    device = next(generator.parameters()).device
    match norm:
        case DenseNorm():
            grid = dense_statistics(generator, size, read, tile_px=tile_px)
            return lambda windows, place: torch.cat(
                [stain_densely(generator, grid, window[None], place) for window in windows.to(device)]
            )
        case SlideNorm() if instance_norms(generator):
            candidates = list(tiles(size, SAMPLE_PX, generator.halo_px, generator.multiple))
            generator = freeze(generator, sample_statistics(generator, candidates, read))
        case SharedNorm():
            generator = freeze(generator, norm.statistics)
    return lambda windows, _: generator(windows.to(device))
