"""Tiles of two registered slides: read from both, the one of the IHC warped onto that of the H&E, and measured."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from restain.errors import ConfigError
from restain.image import RGB
from restain.registration.field import Floats, Raster
from restain.registration.matching import match_blocks
from restain.registration.overview import Overview, Shared, detail, mpp_read, structure_of
from restain.registration.transform import Transform
from restain.registration.warp import places_between, source_limits, warp
from restain.slides.reader import Slide

CHECK_MPP = 2.0
"""Micrometres per pixel at which a tile is checked."""
CHECK_BLOCK_PX, CHECK_STEP_PX, CHECK_REACH_PX = 64, 32, 12
SURE = 0.2
"""A block tells how far apart the sections are if its confidence exceeds this."""
AGREEING = 0.35
"""Share of the blocks of a tile that must be sure and no further apart than allowed. Of tiles in register 98 in 100
reach 0.5; of tiles 15 to 80 µm off none exceeds 0.33: few of their blocks are sure, and those lie anywhere."""
_MARGIN_PX = 4  # around what is read of the IHC, for the interpolation


@dataclass(frozen=True)
class CutSettings:
    """Settings of the tiles, and their requirements."""

    mpp: float = 0.5
    """Micrometres per pixel of the tiles."""
    size_px: int = 512
    """Side of a tile."""
    step_px: int = 512
    """From one tile to the next; less than the side, and they overlap."""
    least_tissue: float = 0.5
    """Share of the tile that must be tissue, 0 to 1."""
    least_overlap: float = 0.8
    """Share of that tissue that the IHC must show, 0 to 1."""
    most_residual_um: float = 12.0
    """How far the two sides may be apart in the median of its blocks, in µm."""
    least_detail: float = 0.1
    """How sharp both sides must be; see `restain.registration.overview.detail`."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.1 <= self.mpp <= 4:
            raise ConfigError(f"tiles of {self.mpp:g} µm per pixel: expected 0.1 to 4")
        if self.size_px < 64 or self.step_px < 1:
            raise ConfigError(f"tiles of {self.size_px} px every {self.step_px} px: expected at least 64, and 1")
        for name in ("least_tissue", "least_overlap"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name):g}: expected a share from 0 to 1")
        if self.most_residual_um <= 0 or self.least_detail < 0:
            raise ConfigError(f"residual {self.most_residual_um:g} µm, detail {self.least_detail:g}: expected above 0")


@dataclass(frozen=True)
class TileFacts:
    """Measurements of one tile; NaN if undefined."""

    x_px: int
    """Left edge in px of the first level of the H&E."""
    y_px: int
    tissue: float
    """Share of the tile that is tissue on the H&E."""
    overlap: float
    """Share of that tissue that lies on tissue of the IHC."""
    residual_um: float = math.nan
    """Median distance of its blocks on the two sides, as cut."""
    blocks: int = 0
    """How many of them could be matched surely."""
    agreement: float = math.nan
    """Share of the blocks that are sure and no further apart than is allowed, 0 to 1."""
    correlation: float = math.nan
    """Of the density of nuclei on both sides."""
    he_detail: float = math.nan
    ihc_detail: float = math.nan
    why: str = ""
    """Why it is left out; empty where it is kept."""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "TileFacts":
        """From what `row` gave."""
        return cls(**row)

    def row(self) -> dict[str, object]:
        """By column, rounded as a table needs it."""
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class PlannedTile:
    """Position of a tile."""

    box: Raster
    """On the slide of the H&E, in µm."""
    x_px: int
    y_px: int
    tissue: float
    overlap: float


def plan_tiles(slide: Slide, he: Overview, shared: Shared, settings: CutSettings) -> list[PlannedTile]:
    """The tiles with enough tissue, row by row, with the share that the IHC shows."""
    mpp = mpp_read(slide, settings.mpp)
    width, height = slide.size_at(settings.mpp)
    found = []
    for y in range(0, height - settings.size_px + 1, settings.step_px):
        for x in range(0, width - settings.size_px + 1, settings.step_px):
            x_px, y_px = (round(place * mpp / slide.mpp) for place in (x, y))
            box = Raster(x_px * slide.mpp, y_px * slide.mpp, settings.size_px, settings.size_px, mpp)
            left, top, right, bottom = (edge / he.mpp for edge in box.limits)
            part = slice(int(top), math.ceil(bottom)), slice(int(left), math.ceil(right))
            tissue = float(he.tissue[part].mean())
            if tissue >= max(settings.least_tissue, 1e-9):
                found.append(PlannedTile(box, x_px, y_px, tissue, float(shared.he[part].sum() / he.tissue[part].sum())))
    return found


def cut_tile(
    he: Slide, ihc: Slide, transform: Transform, place: PlannedTile, settings: CutSettings
) -> tuple[TileFacts, tuple[RGB, RGB] | None]:
    """Read one tile of both slides, in register, and measure it; the pixels only where it is good enough."""
    facts = TileFacts(place.x_px, place.y_px, place.tissue, place.overlap)
    if place.overlap < settings.least_overlap:
        return replace(facts, why="too little of its tissue on the IHC"), None
    places = places_between(transform, place.box)
    ihc_rgb, covered = read_warped(ihc, places, place.box.mpp * transform.scale)
    if not covered.all():
        return replace(facts, why="beyond the slide of the IHC"), None
    he_rgb = he.read((place.x_px, place.y_px), (settings.size_px,) * 2, settings.mpp)
    fit = tile_fit(he_rgb, ihc_rgb, place.box.mpp, settings.most_residual_um)
    he_detail, ihc_detail = (detail(at_mpp(rgb, place.box.mpp, max(1.0, place.box.mpp))) for rgb in (he_rgb, ihc_rgb))
    measured = replace(facts, **asdict(fit), he_detail=he_detail, ihc_detail=ihc_detail)
    for side, found in (("H&E", he_detail), ("IHC", ihc_detail)):
        if found < settings.least_detail:
            return replace(measured, why=f"{side} blurred"), None
    if fit.blocks == 0:
        return replace(measured, why="no block could be matched"), None
    if fit.residual_um > settings.most_residual_um:
        return replace(measured, why="sides too far apart"), None
    if fit.agreement < AGREEING:
        return replace(measured, why="too few of its blocks agree"), None
    return measured, (he_rgb, ihc_rgb)


def read_warped(slide: Slide, places: Floats, mpp: float) -> tuple[RGB, NDArray[np.bool_]]:
    """Read a slide and draw it at given places (2 x H x W in µm), and whether each lies on the slide, H x W.

    Args:
        slide: the slide.
        places: as from `places_between`.
        mpp: resolution to read at, in µm of this slide.
    """
    mpp = max(mpp, slide.mpp)
    actual = mpp_read(slide, mpp)
    left, top, right, bottom = source_limits(places)
    x_px, y_px = (math.floor((low - _MARGIN_PX * actual) / slide.mpp) for low in (left, top))
    width, height = (
        math.ceil((high - low * slide.mpp) / actual) + _MARGIN_PX for high, low in ((right, x_px), (bottom, y_px))
    )
    across, down = slide.size[0] * slide.mpp, slide.size[1] * slide.mpp
    covered = (places[0] >= 0) & (places[0] <= across) & (places[1] >= 0) & (places[1] <= down)
    if not covered.any():
        return np.full((*covered.shape, 3), 255, np.uint8), covered
    rgb = slide.read((x_px, y_px), (width, height), mpp)
    source = Raster(x_px * slide.mpp, y_px * slide.mpp, width, height, actual)
    drawn, _ = warp(rgb, source, places)
    return drawn, covered


@dataclass(frozen=True)
class TileFit:
    """How well both sides of a tile fit; NaN if undefined."""

    residual_um: float
    """Median distance of the blocks that could be matched surely."""
    blocks: int
    """How many these are."""
    agreement: float
    """Share of all matched blocks that are sure and near enough, 0 to 1."""
    correlation: float
    """Of the density of haematoxylin at `CHECK_MPP`, -1 to 1."""


def tile_fit(he: RGB, ihc: RGB, mpp: float, near_um: float) -> TileFit:
    """Look how far apart two images of one size are.

    Args:
        he: H x W x 3.
        ihc: the same size.
        mpp: of both.
        near_um: how far apart blocks may be to agree.
    """
    coarse = max(CHECK_MPP, mpp)
    small = [at_mpp(rgb, mpp, coarse) for rgb in (he, ihc)]
    box = Raster(0, 0, small[0].shape[1], small[0].shape[0], mpp * he.shape[1] / small[0].shape[1])
    first, second = (structure_of(rgb, box) for rgb in small)
    side = min(CHECK_BLOCK_PX, box.width, box.height)
    matches = match_blocks(
        first, second, lambda points: points, block_px=side, step_px=max(1, side // 2), reach_px=CHECK_REACH_PX
    )
    weights = (first.weights * second.weights).numpy()
    correlation = _correlation(first.values.numpy(), second.values.numpy(), weights)
    sure = matches[matches.confidence > SURE]
    if not len(sure):
        return TileFit(math.nan, 0, math.nan, correlation)
    apart = np.hypot(*(sure.moved - sure.points).T)
    return TileFit(float(np.median(apart)), len(sure), float((apart <= near_um).sum() / len(matches)), correlation)


def _correlation(first: NDArray[np.floating], second: NDArray[np.floating], weights: NDArray[np.floating]) -> float:
    means = [np.average(values, weights=weights) for values in (first, second)]
    a, b = first - means[0], second - means[1]
    spread = np.average(a**2, weights=weights) * np.average(b**2, weights=weights)
    return float(np.average(a * b, weights=weights) / np.sqrt(spread)) if spread > 0 else math.nan


def at_mpp(rgb: RGB, mpp: float, wanted: float) -> RGB:
    """An image made smaller, to about other micrometres per pixel."""
    height, width = (max(1, round(side * mpp / wanted)) for side in rgb.shape[:2])
    if (height, width) == rgb.shape[:2]:
        return rgb
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BOX))
