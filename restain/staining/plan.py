"""Plans, before any network runs, the area of a slide to stain, its tiles, and the memory and disk space needed."""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from restain.errors import InputError, OutputError
from restain.image import RGB
from restain.networks.norm import instance_norms
from restain.networks.stainer import Stainer
from restain.polygons import Roi
from restain.slides.codec import Codec
from restain.slides.pyramid import Position, Pyramid
from restain.slides.reader import Slide
from restain.slides.rois import coarse_mask, load_roi
from restain.slides.tiling import Box, Tile, spans
from restain.slides.tissue import TissueMask, find_tissue
from restain.staining.model import Model
from restain.staining.policies import DenseNorm, NormPolicy, TileNorm, check_norm
from restain.staining.settings import SlideSettings

SMALLEST_PX = 8
"""The shortest side that can be stained: two pixels are left at the coarsest scale, the least that can be reflected."""
_ENCODED_PX = 512
"""Side of a tile in the file, if the network's tiles allow it."""
_MOST_TILES = 1_000_000
"""Each takes half a kilobyte of memory."""
_SAMPLED = 8
"""Tiles that are encoded to estimate the size of the result."""
_PYRAMID, _COPIES, _RESERVE = 4 / 3, 2, 1.2
"""Factors for all levels, for spool and result, and for the error of the estimate."""


PASS_BYTES = 1_200_000_000
"""Memory limit of a pass on a CPU; with everything else less than 2 GB."""

_TAKEN: dict[type[NormPolicy], int] = {TileNorm: 40, DenseNorm: 50}
"""Bytes per px of a pass and channel of the first convolution, float32, measured by `benchmarks/slide_memory.py`.
Networks with folded norms take the least."""
_TAKEN_FOLDED = 23


@dataclass(frozen=True, slots=True)
class Work:
    """One pass of the network: a tile, and the tiles of the file that it fills."""

    tile: Tile
    """In px of the whole slide at the model's micrometres per pixel."""
    positions: tuple[Position, ...]


@dataclass(frozen=True)
class Plan:
    """The plan for a slide. All px are of the whole slide, at `mpp`."""

    slide: Slide
    mpp: float
    """Micrometres per pixel of the result."""
    size: tuple[int, int]
    """Width and height of the whole slide; sides are multiples of the generator's, the last px may be reflected."""
    area: Box
    """The area of the result."""
    pyramid: Pyramid
    tile_px: int
    halo_px: int
    tissue: TissueMask | None
    """None if everything is stained."""
    drawn: Roi | None = None
    """Polygons that limit staining; `tissue` is then their coarse mask."""
    batch: int = 1
    """Tiles that go through the network together."""
    notes: tuple[str, ...] = ()
    """Notes, such as the origin of the micrometres per pixel."""

    def read(self, window: Box) -> RGB:
        """The pixels of a box, H x W x 3."""
        scale = self.slide.scale(self.mpp)
        return self.slide.read((window.x * scale, window.y * scale), (window.width, window.height), self.mpp)

    def tiles(self, tile_px: int) -> Iterator[Tile]:
        """Tiles over the area, row by row, of which the core has tissue; like `restain.slides.tiling.tiles`."""
        parts = (self.area.x, self.area.width), (self.area.y, self.area.height)
        columns, rows = (
            list(spans(length, tile_px, self.halo_px, part)) for length, part in zip(self.size, parts, strict=True)
        )
        for (y, height), (window_y, window_height) in rows:
            for (x, width), (window_x, window_width) in columns:
                if self.has_tissue(core := Box(x, y, width, height)):
                    yield Tile(core, Box(window_x, window_y, window_width, window_height))

    def work(self) -> list[Work]:
        """All work of the network, always in the same order."""
        return [Work(tile, tuple(self._positions(tile.core))) for tile in self.tiles(self.tile_px)]

    def box(self, position: Position) -> Box:
        """The area of a tile of the file."""
        box = self.pyramid.box(position)
        return Box(box.x + self.area.x, box.y + self.area.y, box.width, box.height)

    def drawn_in(self, box: Box) -> NDArray[np.bool_] | None:
        """Which pixels of a box are in the polygons, H x W; None without polygons, so that all are."""
        if self.drawn is None:
            return None
        return self.drawn.mask((box.x, box.y), (box.width, box.height), self.slide.scale(self.mpp))

    def has_tissue(self, box: Box) -> bool:
        """Whether there is something to stain in a box."""
        scale = self.slide.scale(self.mpp)
        place = (box.x * scale, box.y * scale, box.width * scale, box.height * scale)
        return self.tissue is None or self.tissue.touches(*place)

    def _positions(self, core: Box) -> Iterator[Position]:
        side, x, y = self.pyramid.tile_px, core.x - self.area.x, core.y - self.area.y
        for row in range(y // side, -(-(y + core.height) // side)):
            for column in range(x // side, -(-(x + core.width) // side)):
                if self.has_tissue(self.box(position := Position(0, row, column))):
                    yield position


def plan_of(model: Model, slide: Slide, settings: SlideSettings) -> Plan:
    """Plan which area of a slide a model stains, at which scale, and in which tiles.

    On a CPU tiles and batches are reduced until a pass takes at most `PASS_BYTES`.

    Raises:
        InputError: statistics that are given belong to another model, or a halo takes too much memory and adds nothing.
        InputError, MissingError: as in `find_tissue`, `load_roi` and `make_plan`.
    """
    check_norm(settings.norm, model.sha256)  # a wrong one is reported before any work
    mpp, notes = _model_mpp(model, slide, settings)
    halo_px = model.generator.halo_px if settings.halo_px is None else settings.halo_px
    tile_px, multiple = settings.tile_px, model.generator.multiple
    most = most_px(model.generator, settings.norm) if model.device.type == "cpu" else None
    if most is not None:
        tile_px = fitting_tile(tile_px, halo_px, most, multiple)
        if halo_px > model.generator.halo_px and (tile_px + 2 * halo_px) ** 2 > most:
            raise InputError(
                f"halo of {halo_px} px: a pass would take more than 1.2 GB of memory; the network sees "
                f"{model.generator.halo_px} px around a tile, and a wider halo has no effect"
            )
    if tile_px != settings.tile_px:
        notes.append(f"tiles of {tile_px} px: those of {settings.tile_px} px would take more than 1.2 GB of memory")
    plan = make_plan(
        slide,
        mpp,
        tile_px=tile_px,
        halo_px=halo_px,
        multiple=multiple,
        region=settings.region,
        tissue=find_tissue(slide) if settings.tissue_mask and not settings.rois else None,
        drawn=load_roi(settings.rois, slide) if settings.rois else None,
    )
    return replace(plan, batch=_batch(settings, (tile_px + 2 * halo_px) ** 2, most), notes=tuple(notes))


def _model_mpp(model: Model, slide: Slide, settings: SlideSettings) -> tuple[float, list[str]]:
    """Micrometres per pixel at which the network works, and a note on it."""
    notes = [f"{slide.mpp:.4g} µm per px, {slide.mpp_origin}", *slide.notes]
    wanted = settings.model_mpp or model.mpp
    if wanted is None:
        notes.append("the model does not record its µm per px, so the slide is not resampled")
        return slide.mpp, notes
    if slide.scale(wanted) != 1:
        change = "reduced" if slide.scale(wanted) > 1 else "enlarged, which adds no detail,"
        notes.append(f"{change} to {wanted:.4g} µm per px, which the model was trained at")
    return wanted, notes


def _batch(settings: SlideSettings, window_px: int, most: int | None) -> int:
    """Windows per pass; together they take up to twice as much memory per px."""
    if isinstance(settings.norm, DenseNorm):  # each place has statistics of its own
        return 1
    batch = settings.batch or (2 if most is None else 1)
    return batch if most is None else max(1, min(batch, most // 2 // window_px))


def most_px(network: Stainer, norm: NormPolicy) -> int:
    """Most px of a pass on a CPU, over all windows of a batch, under a norm policy."""
    taken = _TAKEN.get(type(norm), _TAKEN_FOLDED) if instance_norms(network) else _TAKEN_FOLDED
    return PASS_BYTES // (taken * network.config.width)


def fitting_tile(tile_px: int, halo_px: int, most: int, multiple: int = 4) -> int:
    """Halve a tile until its window has at most `most` px; it stays a multiple of 16, of `multiple`, and positive."""
    step = math.lcm(16, multiple)
    while (tile_px + 2 * halo_px) ** 2 > most and tile_px >= 2 * step:
        tile_px = tile_px // 2 // step * step
    return tile_px


def make_plan(
    slide: Slide,
    mpp: float,
    *,
    tile_px: int,
    halo_px: int,
    multiple: int = 4,
    region: tuple[int, int, int, int] | None = None,
    tissue: TissueMask | None = None,
    drawn: Roi | None = None,
) -> Plan:
    """Lay the grid of tiles.

    Args:
        slide: what is stained.
        mpp: micrometres per pixel at which the network works.
        tile_px: side of what the network adds at a time, a multiple of 16.
        halo_px: what it sees around that.
        multiple: of the network; tiles, halo and all places where it sees are multiples of it, as in
            `restain.slides.tiling.tiles`.
        region: x, y, width, height in px of the slide's first level; the result shows only this.
        tissue: where to stain; everywhere if not given.
        drawn: polygons to stain instead of tissue.

    Raises:
        InputError: a tile or halo that is no such multiple, or a region that does not lie on the slide.
    """
    finest = max(16, multiple)
    if tile_px < finest or tile_px % finest or halo_px < 0 or halo_px % multiple:
        raise InputError(
            f"tile of {tile_px} px, halo of {halo_px} px: for slides, expected multiples of {finest} and of {multiple}"
        )
    scale = slide.scale(mpp)
    width, height = slide.size_at(mpp)
    area = Box(0, 0, width, height)
    if region:
        x, y, wide, high = region
        left, top = (max(0, int(start / scale) // multiple * multiple) for start in (x, y))
        right, bottom = min(width, math.ceil((x + wide) / scale)), min(height, math.ceil((y + high) / scale))
        if min(wide, high) < 1 or right <= left or bottom <= top:
            raise InputError(
                f"region {x},{y},{wide},{high} is not inside {slide.path}, {slide.size[0]} x {slide.size[1]} px; "
                "expected x,y,width,height in px of its first level"
            )
        area = Box(left, top, right - left, bottom - top)
    if min(area.width, area.height) < SMALLEST_PX:
        raise InputError(
            f"{slide.path}: {area.width} x {area.height} px at {mpp:g} µm per px is too small to stain; each side "
            f"needs at least {SMALLEST_PX} px"
        )
    encoded_px = math.gcd(tile_px, _ENCODED_PX)
    if area.width * area.height > _MOST_TILES * encoded_px**2:
        least = 1 << math.isqrt(area.width * area.height // _MOST_TILES).bit_length()
        raise InputError(
            f"{slide.path}: {area.width} x {area.height} px are more than a million tiles of {encoded_px} px, in which "
            f"tiles of {tile_px} px are kept; choose tiles that are a multiple of {least} px"
        )
    return Plan(
        slide,
        mpp=slide.mpp * scale,
        size=(-(-width // multiple) * multiple, -(-height // multiple) * multiple),
        area=area,
        pyramid=Pyramid((area.width, area.height), encoded_px),
        tile_px=tile_px,
        halo_px=halo_px,
        tissue=coarse_mask(drawn, slide) if drawn else tissue,
        drawn=drawn,
    )


def needed_bytes(work: Sequence[Work], read: Callable[[Box], RGB], codec: Codec) -> int:
    """Disk space for spool and result, estimated from a sample of encoded tiles of the H&E."""
    pixels = sum(one.tile.core.width * one.tile.core.height for one in work)
    sample = work[:: max(1, len(work) // _SAMPLED)][:_SAMPLED]
    encoded = sum(len(codec.encode(read(one.tile.core))) for one in sample)
    sampled = sum(one.tile.core.width * one.tile.core.height for one in sample)
    return int(encoded / max(sampled, 1) * pixels * _PYRAMID * _COPIES * _RESERVE)


def check_disk(out: Path, needed: int, there: int) -> None:
    """Refuse to begin without enough disk space.

    Args:
        out: the result.
        needed: bytes from `needed_bytes`.
        there: bytes of these that an earlier run has written.

    Raises:
        OutputError: there is not enough.
    """
    folder = next(parent for parent in out.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed - there:
        raise OutputError(
            f"{out} needs about {(needed - there) / 1e9:.2f} GB while it is made, but only {free / 1e9:.2f} GB are "
            "free; free disk space, choose another disk, or compress more (compact JPEG, a lower quality)"
        )
