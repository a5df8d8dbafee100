"""Registers two slides: overview, global search, then block matching from coarse to fine with a smooth field.

Slides are read in windows, so that memory does not grow with them.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from restain.errors import InputError
from restain.registration.field import Affine, Field, Raster
from restain.registration.fitting import Fit, Matches, fit_field
from restain.registration.matching import Structure, match_blocks
from restain.registration.overview import (
    GLASS_WEIGHT,
    OVERVIEW_MPP,
    Overview,
    Shared,
    detail,
    look,
    mpp_read,
    shared_tissue,
    shrunk,
    structure_of,
    whole_factor,
)
from restain.registration.search import LEAST_BLOCKS, REFINE_PX, Lie, find_lie
from restain.registration.transform import Scan, Transform
from restain.slides.reader import Slide
from restain.workers.threads import ahead

FINE_MPP = (4.0, 2.0, 1.0)
"""Resolutions of the last rounds, read from the slides."""
WINDOW_PX = 512
"""Side of what is matched at once."""
WINDOWS = 240
"""Windows in one round, at most; spread over the tissue."""
BLOCK_PX, COARSE_BLOCK_PX, REACH_PX = 64, 32, 12
TOLERANCE_PX = 3.0
"""How far a right match may be missed, in px of the round."""
SMOOTHING_PX = 24.0
"""Bends shorter than 2π times this are damped, in px of the round, but not below `LEAST_SMOOTHING_UM`."""
LEAST_SMOOTHING_UM = 50.0
MOST_CONTROL_POINTS = 90
"""Along the longer side of a slide; more would take more time and memory than they give."""
_LEAST_MATCHES = 6  # in a round, to be made use of
_EARLIER_COUNTS = 0.3  # how much matches of the round before count, where a round looks at some windows only
LEAST_DETERMINANT = 0.3
"""A field that shrinks tissue to less than this share of its area anywhere is made smoother."""
LEAST_SHARED = 0.5
"""Share of the H&E's tissue that must lie on tissue of the IHC."""
LEAST_DETAIL = 0.1
"""Strength of detail of 1 to 2 µm against that of 4 to 8 µm, below which a slide is blurred."""


@dataclass(frozen=True)
class Registration:
    """Two slides and how they belong together."""

    transform: Transform
    he: Overview
    ihc: Overview
    shared: Shared


@dataclass(frozen=True)
class Demands:
    """Requirements on a pair of slides."""

    mirror: bool = True
    """Whether the section may be mirrored."""
    any_scale: bool = True
    """Whether the files may be wrong about their micrometres per pixel, by up to a factor of 2."""
    least_shared: float = LEAST_SHARED
    """Share of the H&E's tissue that the IHC must show, 0 to 1."""
    least_detail: float = LEAST_DETAIL
    """See `LEAST_DETAIL`."""


def register(
    he: Slide,
    ihc: Slide,
    demands: Demands | None = None,
    *,
    threads: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Registration:
    """Register two slides.

    Args:
        he: the slide of the H&E.
        ihc: that of the IHC.
        demands: what must be shown.
        threads: that read and match.
        on_progress: called with windows matched and windows in all rounds.

    Raises:
        InputError: a slide is blank or blurred, or the two cannot be shown to match; the message says why.
    """
    demands = demands or Demands()
    first, second = look(he), look(ihc)
    _refuse_blurred(he, first, demands.least_detail)
    _refuse_blurred(ihc, second, demands.least_detail)
    lie = find_lie(first, second, mirror=demands.mirror, any_scale=demands.any_scale)
    if not lie.is_found:
        raise InputError(_why_not(first, second, lie, demands))
    shared = shared_tissue(first, second, lie.affine, lie.affine.inverse)
    if shared.share < demands.least_shared:
        raise InputError(
            f"{second.scan.name} shows {shared.share:.1%} of the tissue of {first.scan.name}, expected at least "
            f"{demands.least_shared:.0%}; scan the rest, or accept a smaller share"
        )
    transform = _refined(he, ihc, first, second, lie, shared, threads, on_progress)
    shared = shared_tissue(first, second, transform, transform.back)
    figures = {
        **transform.figures, "agreement": lie.agreement, "shared_tissue": shared.share,
        "pieces_without_partner": float(shared.pieces),
    }  # fmt: skip
    return Registration(
        Transform(transform.he, transform.ihc, transform.affine, transform.bend, figures), first, second, shared
    )


def _why_not(he: Overview, ihc: Overview, lie: Lie, demands: Demands) -> str:
    """The reason to reject a pair of slides."""
    pair = f"{he.scan.name} and {ihc.scan.name}"
    if lie.blocks < LEAST_BLOCKS:
        return (
            f"{pair} have {lie.blocks} blocks of tissue in common, too few of the {LEAST_BLOCKS} that it takes to tell"
        )
    words = (
        f"{pair} do not show the same tissue: {lie.agreement:.0%} of {lie.blocks} blocks agree on one position, "
        f"expected at least {lie.needed:.0%}"
    )
    if not demands.mirror and (mirrored := find_lie(he, ihc, any_scale=demands.any_scale)).is_found:
        return f"{words}; mirrored, {mirrored.agreement:.0%} agree: allow mirroring"
    return f"{words}; check that they are sections of one block"


def _refuse_blurred(slide: Slide, overview: Overview, least: float) -> None:
    found = slide_detail(slide, overview)
    if found < least:
        raise InputError(
            f"{slide.path} is blurred: detail of 1 to 2 µm has {found:.3f} of the strength of that of 4 to 8 µm, "
            f"expected at least {least:g}; scan it again in focus"
        )


def slide_detail(slide: Slide, overview: Overview, windows: int = 12) -> float:
    """Median `detail` of windows of 256 px on tissue, at 1 µm per pixel or the slide's own if that is coarser."""
    mpp = max(1.0, slide.mpp)
    places = np.argwhere(overview.tissue)
    chosen = places[np.linspace(0, len(places) - 1, windows).astype(int)]
    half = 128 * mpp
    found = []
    for row, column in chosen:
        x, y = (max(0.0, (place + 0.5) * overview.mpp - half) for place in (column, row))
        found.append(detail(slide.read((x / slide.mpp, y / slide.mpp), (256, 256), mpp)))
    return float(np.median(found))


@dataclass(frozen=True)
class _Side:
    """One slide, to be read as structure at any resolution."""

    slide: Slide
    overview: Overview

    def structure(self, limits: tuple[float, float, float, float], mpp: float) -> Structure:
        """Of a rectangle (left, top, right, bottom in µm), at `mpp` or a little finer."""
        left, top, right, bottom = limits
        coarse = self.overview
        if mpp >= coarse.mpp:
            factor = whole_factor(coarse.mpp, mpp)
            x0, y0 = (max(0, math.floor(low / coarse.mpp / factor) * factor) for low in (left, top))
            x1, y1 = (math.ceil(high / coarse.mpp / factor) * factor for high in (right, bottom))
            rgb, worth = coarse.rgb[y0:y1, x0:x1], coarse.worth[y0:y1, x0:x1]
            box = Raster(x0 * coarse.mpp, y0 * coarse.mpp, rgb.shape[1], rgb.shape[0], coarse.mpp)
            if not worth.size:
                return _nothing(left, top, mpp)
            return shrunk(structure_of(rgb, box, worth), factor)
        mpp = mpp_read(self.slide, max(mpp, self.slide.mpp))
        across, down = self.slide.size[0] * self.slide.mpp, self.slide.size[1] * self.slide.mpp
        left, top = max(0.0, left), max(0.0, top)
        width, height = (math.floor(length / mpp) for length in (min(right, across) - left, min(bottom, down) - top))
        if min(width, height) < 1:
            return _nothing(left, top, mpp)
        box = Raster(left, top, width, height, mpp)
        rgb = self.slide.read((left / self.slide.mpp, top / self.slide.mpp), (width, height), mpp)
        return structure_of(rgb, box, _worth_in(coarse, box))


def _nothing(x: float, y: float, mpp: float) -> Structure:
    return Structure(torch.zeros(1, 1), torch.zeros(1, 1), Raster(x, y, 1, 1, mpp))


def _worth_in(overview: Overview, box: Raster) -> NDArray[np.float32]:
    """How much the pixels of a box count."""
    height, width = overview.tissue.shape
    columns = np.floor(box.columns / overview.mpp).astype(int).clip(0, width - 1)
    rows = np.floor(box.rows / overview.mpp).astype(int).clip(0, height - 1)
    return np.asarray(overview.worth[rows[:, None], columns])


def _refined(
    he: Slide,
    ihc: Slide,
    first: Overview,
    second: Overview,
    lie: Lie,
    shared: Shared,
    threads: int,
    on_progress: Callable[[int, int], None] | None,
) -> Transform:
    """From the affine map to a smooth field, round by round."""
    sides = _Side(he, first), _Side(ihc, second)
    transform = Transform(first.scan, second.scan, lie.affine)
    start_mpp = max(first.extent_um / REFINE_PX, OVERVIEW_MPP)
    coarse = [first.mpp * 2**n for n in reversed(range(round(math.log2(max(1.0, start_mpp / first.mpp))) + 1))]
    rounds = [*coarse, *(mpp for mpp in FINE_MPP if mpp < first.mpp and mpp > 0.7 * he.mpp)]
    plans = [_windows(first, shared, mpp) for mpp in rounds]
    total, done = sum(len(windows[:: _every(windows)]) for windows in plans), 0
    fit: Fit | None = None
    earlier: Matches | None = None
    with ThreadPoolExecutor(threads) as pool:
        for mpp, windows in zip(rounds, plans, strict=True):
            current = transform

            def match(window: Raster, current: Transform = current) -> Matches:
                return _matches_in(sides, window, current)

            parts = []
            for part in ahead(pool, match, windows[:: _every(windows)], 2 * threads):
                parts.append(part)
                done += 1
                if on_progress:
                    on_progress(done, total)
            if earlier is not None and _every(windows) > 1:
                parts.append(Matches(earlier.points, earlier.moved, _EARLIER_COUNTS * earlier.confidence))
            found = Matches.joined(parts)
            if len(found) < _LEAST_MATCHES:
                continue
            bend, fit = _smooth(found, transform, mpp)
            transform, earlier = replace(transform, bend=bend), found[fit.believed]
    if fit is None or transform.bend is None:
        raise InputError(
            f"{first.scan.name} and {second.scan.name}: fewer than {_LEAST_MATCHES} blocks match at {rounds[-1]:g} µm "
            f"per pixel, so the match at {rounds[0]:g} µm is not confirmed"
        )
    believed = fit.believed
    figures = {
        "matched_blocks": float(believed.sum()),
        "residual_um": float(np.median(fit.misses[believed])) if believed.any() else math.nan,
        "residual_high_um": float(np.quantile(fit.misses[believed], 0.9)) if believed.any() else math.nan,
        "believed_share": float(believed.mean()),
        "smallest_determinant": _smallest_determinant(transform.bend, transform.he),
    }
    return replace(transform, figures=figures)


def _every(windows: Sequence[Raster]) -> int:
    """Every how manieth window is looked at, so that there are not too many."""
    return math.ceil(len(windows) / WINDOWS)


def _windows(he: Overview, shared: Shared, mpp: float) -> list[Raster]:
    """Where to match in one round: squares with shared tissue."""
    side = WINDOW_PX * mpp
    across, down = he.scan.size_um
    found = []
    for y in np.arange(0, down, side):
        for x in np.arange(0, across, side):
            rows, columns = (slice(int(low / he.mpp), math.ceil((low + side) / he.mpp)) for low in (y, x))
            part = shared.he[rows, columns]
            if part.any() and part.mean() > 0.05:
                found.append(Raster(float(x), float(y), WINDOW_PX, WINDOW_PX, mpp))
    return found


def _matches_in(sides: tuple[_Side, _Side], window: Raster, transform: Transform) -> Matches:
    """Where the blocks of one window lie on the other slide."""
    first = sides[0].structure(window.limits, window.mpp)
    margin = (REACH_PX + BLOCK_PX / 2) * window.mpp
    left, top, right, bottom = window.limits
    edge = np.linspace(0, 1, 5)
    x, y = np.meshgrid(
        left - margin + edge * (right - left + 2 * margin), top - margin + edge * (bottom - top + 2 * margin)
    )
    places = transform(np.stack([x.ravel(), y.ravel()], axis=1))
    limits = (*places.min(axis=0), *places.max(axis=0))
    second = sides[1].structure(limits, window.mpp * transform.scale)
    side = BLOCK_PX if window.mpp < sides[0].overview.mpp else COARSE_BLOCK_PX
    matches = match_blocks(first, second, transform, block_px=side, step_px=side, reach_px=REACH_PX)
    column, row = np.floor((matches.points - (first.box.x, first.box.y)) / first.box.mpp).astype(int).T
    return matches[first.weights.numpy()[row, column] > 2 * GLASS_WEIGHT]


def _smooth(matches: Matches, transform: Transform, mpp: float) -> tuple[Field, Fit]:
    """The bend behind matches; made smoother until nothing folds."""
    width, height = transform.he.size_um
    box = Raster(0, 0, math.ceil(width / mpp), math.ceil(height / mpp), mpp)
    unbent = Matches(matches.points, transform.affine.inverse(matches.moved), matches.confidence)
    smoothing = max(SMOOTHING_PX * mpp, LEAST_SMOOTHING_UM)
    start = transform.bend or Affine.identity()
    while True:
        spacing = max(1.5 * smoothing, max(width, height) / MOST_CONTROL_POINTS)
        fit = fit_field(unbent, box, spacing, smoothing, TOLERANCE_PX * mpp, start)
        if _smallest_determinant(fit.field, transform.he) >= LEAST_DETERMINANT:
            return fit.field, fit
        smoothing *= 2


def _smallest_determinant(bend: Field, scan: Scan) -> float:
    return bend.smallest_determinant(Raster(0, 0, *scan.size, scan.mpp))
