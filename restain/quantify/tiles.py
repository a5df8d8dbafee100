"""Measures images of any size tile by tile, with the memory of one tile, and counts every cell once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from restain.errors import InputError
from restain.image import RGB, check_mpp, to_tensor, to_uint8
from restain.quantify.cells import Cells, measure_cells
from restain.quantify.density import REACH, Float32s, densities
from restain.quantify.nuclei import NUCLEUS_UM, SURROUNDINGS, Labels, NucleusSegmenter, find_nuclei
from restain.quantify.outlines import outlines
from restain.quantify.tally import Tally, tally
from restain.stains import Marker, from_unit, to_unit, with_reference_stains

Read = Callable[[tuple[int, int], tuple[int, int]], RGB]
"""From location (x, y) and size (width, height), both in px, to H x W x 3; always inside the image."""

USUAL_MPP = 0.5
"""Nuclei are found well at this resolution, and a finer one brings no gain."""

_SAMPLES, _SAMPLE_PX = 8, 64
"""Samples along each side, and their size in px, from which stain vectors are estimated."""


def fit_mpp(mpp: float) -> float:
    """The µm per pixel at which to read an image of `mpp`: unchanged, or 0.5 if it is much finer."""
    return USUAL_MPP if mpp < 0.7 * USUAL_MPP else mpp


@dataclass(frozen=True)
class QuantifySettings:
    """How to measure."""

    mpp: float
    """µm per pixel of what is read."""
    marker: Marker = "membrane"
    """Where DAB lies on positive cells."""
    nucleus_um: float = NUCLEUS_UM
    """Diameter of a typical nucleus."""
    segmenter: NucleusSegmenter | None = None
    """Replaces `find_nuclei`."""
    stain_vectors: torch.Tensor | None = None
    """Of the images, 3 x 3, from `estimate_stain_vectors`; None for those of Ruifrok & Johnston."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_mpp(self.mpp)
        if self.marker not in ("nuclear", "membrane"):
            raise InputError(f"marker '{self.marker}': expected 'nuclear' or 'membrane'")
        if not 2 <= self.nucleus_um <= 50:
            raise InputError(f"nuclei of {self.nucleus_um:g} µm: expected 2 to 50")

    @property
    def halo_px(self) -> int:
        """Margin read around each tile, in px: the radius of the surroundings, and two nuclei."""
        return int(np.ceil((REACH * SURROUNDINGS + 2) * self.nucleus_um / self.mpp))

    def without_dab(self) -> "QuantifySettings":
        """The same for an image without DAB, such as H&E: nuclei are blue."""
        return replace(self, marker="membrane")

    def with_reference_stains(self, rgb: RGB) -> RGB:
        """An image, H x W x 3, re-rendered with the reference stain vectors."""
        if self.stain_vectors is None:
            return rgb
        stained = to_uint8(from_unit(with_reference_stains(to_unit(to_tensor(rgb)), self.stain_vectors)))
        return np.asarray(stained[0], np.uint8)


@dataclass(frozen=True)
class TileResult:
    """One tile, measured. Everything but `location` is in px of the tile."""

    location: tuple[int, int]
    """x and y of the tile in the image."""
    rgb: RGB
    """The tile."""
    seen: Cells
    """All cells of the tile and its margin."""
    cells: Cells
    """The cells of this tile: those whose nucleus has its centre in it."""
    settings: QuantifySettings
    window: Labels
    """Labels of all nuclei of the tile and its margin."""
    inset: tuple[int, int]
    """x and y of the tile in `window`."""

    @property
    def labels(self) -> Labels:
        """Labels of the nuclei on the tile, including those counted in other tiles: H x W."""
        (column, row), (height, width) = self.inset, self.rgb.shape[:2]
        return self.window[row : row + height, column : column + width]

    @cached_property
    def dab(self) -> Float32s:
        """Optical density of DAB, H x W."""
        return densities(self.settings.with_reference_stains(self.rgb))[1]

    def outlines(self) -> list[NDArray[np.float64]]:
        """Outlines of the nuclei of `cells`: closed polygons of x and y, K x 2 each, 0 at the corner of the tile."""
        return [outline - np.array(self.inset) for outline in outlines(self.window, self.cells.label)]

    def tally(self, where: NDArray[np.bool_] | None = None) -> Tally:
        """Count the tile, or its part in the mask `where` (H x W)."""
        cells = self.cells
        if where is not None:
            rows, columns = (np.rint(place).astype(int) for place in (cells.y, cells.x))
            height, width = where.shape
            cells = cells.chosen(where[rows.clip(0, height - 1), columns.clip(0, width - 1)])
        return tally(self.dab, cells, self.settings.mpp, where)


def sampled_pixels(read: Read, size: tuple[int, int]) -> RGB:
    """Sample pixels at 8 x 8 positions over an image, K x 3, to estimate stain vectors from."""
    extent = min(_SAMPLE_PX, size[0]), min(_SAMPLE_PX, size[1])
    columns, rows = (np.linspace(0, size[axis] - extent[axis], _SAMPLES, dtype=int).tolist() for axis in (0, 1))
    parts = (read((x, y), extent) for y in rows for x in columns)
    return np.concatenate([part[::2, ::2].reshape(-1, 3) for part in parts])


def quantify_image(rgb: RGB, settings: QuantifySettings) -> TileResult:
    """Measure an image as a whole.

    Nuclei that touch its right or lower edge are not counted, those at its left and upper edge are, as in the unbiased
    counting frame (Gundersen 1977).

    Args:
        rgb: IHC, H x W x 3.
        settings: how.

    Raises:
        InputError: the pixels are too coarse for the nuclei.
    """
    height, width = rgb.shape[:2]
    (found,) = quantify_tiles(lambda *_: rgb, (width, height), settings, tile_px=max(width, height))
    return found


def quantify_tiles(
    read: Read,
    size: tuple[int, int],
    settings: QuantifySettings,
    tile_px: int = 1024,
    wanted: Callable[[tuple[int, int], tuple[int, int]], bool] = lambda *_: True,
) -> Iterator[TileResult]:
    """Measure an image tile by tile, row by row.

    Each tile is read with a margin, so that its cells equal those of the whole image, and a cell belongs to the tile
    with the centre of its nucleus. At the edges of the image the counting frame of `quantify_image` applies.

    Args:
        read: the image.
        size: its width and height in px.
        settings: how.
        tile_px: side of a tile; those at the right and lower edge may be smaller.
        wanted: tells by location and size whether a tile is measured; all are if not given.

    Raises:
        InputError: as in `quantify_image`.
    """
    width, height = size
    for y in range(0, height, tile_px):
        for x in range(0, width, tile_px):
            location, extent = (x, y), (min(tile_px, width - x), min(tile_px, height - y))
            if wanted(location, extent):
                yield _tile(read, size, settings, location, extent)


def _tile(
    read: Read, size: tuple[int, int], settings: QuantifySettings, location: tuple[int, int], extent: tuple[int, int]
) -> TileResult:
    halo = settings.halo_px
    left, top = (max(0, place - halo) for place in location)
    right, bottom = (min(whole, a + b + halo) for whole, a, b in zip(size, location, extent, strict=True))
    window = read((left, top), (right - left, bottom - top))
    stained = settings.with_reference_stains(window)
    if settings.segmenter:
        labels = settings.segmenter(window)
    else:
        labels = find_nuclei(stained, settings.mpp, settings.marker, settings.nucleus_um)
    cells = measure_cells(stained, labels, settings.mpp, settings.marker)
    x, y = cells.x + (left - location[0]), cells.y + (top - location[1])
    # A centre belongs to the pixel that it lies in, and pixel 0 extends from -0.5 to 0.5.
    own = (x >= -0.5) & (x < extent[0] - 0.5) & (y >= -0.5) & (y < extent[1] - 0.5)
    cut: set[int] = set()
    cut |= set(labels[:, -1].tolist()) if right == size[0] else set()
    cut |= set(labels[-1].tolist()) if bottom == size[1] else set()
    own &= ~np.isin(cells.label, list(cut))
    seen = replace(cells, x=x, y=y)
    inset = location[0] - left, location[1] - top
    core = window[inset[1] : inset[1] + extent[1], inset[0] : inset[0] + extent[0]]
    return TileResult(location, core, seen, seen.chosen(own), settings, labels, inset)
