"""Decides whether a pair of tiles shows the same tissue, by figures and thresholds; a rejection names the figure.

The thresholds separate true from shuffled pairs; `benchmarks/registration_tiles.py` counts how many of each pass.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from restain.registration.channels import Channels, Values, correlation
from restain.registration.coarse import coarsest, matched_blocks, turn_and_shift
from restain.registration.field import Field
from restain.registration.warp import places_on

NUCLEI, ANYTHING = 0.06, (0.03, 0.04)
"""Local standard deviation of haematoxylin at which there are nuclei, and of haematoxylin or tissue at which there is
anything to see."""
BLOCK_PX, REACH_PX, STEP_PX = 32, 12, 8
"""Side of the blocks that are sought once more in the aligned tile, how far, and how far apart they lie, in px of the
halved channels."""
SURE = 0.2
"""A block tells how far apart the sections are if its confidence exceeds this."""
MATCHED_PX = 2.0
"""A sure block matches if it lies within so many px of the halved channels of where the field has it."""
_WINDOW_PX = 25
_FLIPS = (np.s_[:, :, ::-1], np.s_[:, ::-1])


@dataclass(frozen=True)
class Figures:
    """Measurements of a pair; NaN if undefined."""

    he_structure: float = math.nan
    """Share of the H&E with nuclei to see, 0 to 1."""
    ihc_structure: float = math.nan
    """Share of the IHC with anything to see, 0 to 1."""
    he_detail: float = math.nan
    """Strength of fine detail of haematoxylin against detail eight times as coarse; little where it is out of focus."""
    ihc_detail: float = math.nan
    agreement: float = math.nan
    """Correlation of both sections, blurred, at the best turn and shift, less where little is shared."""
    mirrored_agreement: float = math.nan
    """The same for the mirrored IHC, measured if the IHC itself agrees too little."""
    seen: float = math.nan
    """Share of the H&E's nuclei at which the aligned IHC has anything to see, 0 to 1."""
    covered: float = math.nan
    """Share of the H&E that the aligned IHC covers, 0 to 1."""
    blocks: int = 0
    """How many blocks tell surely how far apart the aligned sections are."""
    matched_blocks: int = 0
    """How many of them lie where the field has them."""
    residual_px: float = math.nan
    """Median distance of the sure blocks from where the field has them, in px of the tile."""
    moved_px: float = math.nan
    """Median length of the displacement, in px of the tile."""
    correlation_before: float = math.nan
    """Of haematoxylin, locally normalised, in the original pair."""
    correlation_after: float = math.nan
    """The same in the aligned pair, where both are seen."""
    smallest_determinant: float = math.nan
    """Of the field's Jacobian: how much area shrinks where it shrinks most; above 0 nothing folds."""


@dataclass(frozen=True)
class Bars:
    """Requirements on a pair."""

    structure: float = 0.02
    """Of both sides."""
    detail: float = 0.15
    """Of both sides."""
    agreement: float = 0.4
    sure_agreement: float = 0.5
    """From here on agreement is enough; below, blocks must confirm it."""
    matched: float = 0.55
    """Share of the sure blocks that must match then."""
    seen: float = 0.75
    covered: float = 0.5
    determinant: float = 0.01


def why_not(figures: Figures, bars: Bars) -> str:
    """Why a pair is rejected, with the figure; empty if it is accepted."""
    for name, structure, detail in (
        ("H&E", figures.he_structure, figures.he_detail),
        ("IHC", figures.ihc_structure, figures.ihc_detail),
    ):
        if not structure >= bars.structure:
            return f"the {name} is blank: {structure:.1%} of it has structure, expected at least {bars.structure:.0%}"
        if not detail >= bars.detail:
            return (
                f"the {name} is blurred: fine detail has {detail:.2f} of the strength of coarse, expected {bars.detail}"
            )
    if not figures.agreement >= bars.agreement:
        words = f"the best turn and shift correlate by {figures.agreement:.2f}, expected at least {bars.agreement:g}"
        if figures.mirrored_agreement >= bars.agreement:
            return f"the IHC is mirrored: {words}; mirrored it is {figures.mirrored_agreement:.2f}"
        return f"no common tissue: {words}"
    share = figures.matched_blocks / max(1, figures.blocks)
    if figures.agreement < bars.sure_agreement and share < bars.matched:
        return (
            f"no common tissue: the best turn and shift correlate by {figures.agreement:.2f}, and below "
            f"{bars.sure_agreement:g} at least {bars.matched:.0%} of the blocks must match; {share:.0%} do"
        )
    if not figures.seen >= bars.seen:
        return f"the IHC shows {figures.seen:.0%} of the nuclei of the H&E, expected at least {bars.seen:.0%}"
    if not figures.covered >= bars.covered:
        return f"the IHC covers {figures.covered:.0%} of the H&E, expected at least {bars.covered:.0%}"
    if not figures.smallest_determinant >= bars.determinant:
        return f"the displacement folds: smallest Jacobian {figures.smallest_determinant:.2f}"
    return ""


def measured(first: Channels, second: Channels, field: Field, agreement: float, bars: Bars) -> Figures:
    """Everything that is known of a pair once its field was found.

    Args:
        first: of the H&E, as from `shared_channels`.
        second: of the IHC.
        field: from the one to the other.
        agreement: as from `turn_and_shift`.
        bars: below its `agreement`, the mirrored IHC is tried.
    """
    places = places_on(field, first.box)
    aligned, inside = second.at(places)
    covered = inside > 0.99
    nuclei = (contrast(first)[0] > NUCLEI) & covered
    visible = anything(Channels(aligned, first.pitch))
    halves = (side.halved().normalised(0.75, _WINDOW_PX) for side in (first, second))
    matches = matched_blocks(next(halves), next(halves), field, block_px=BLOCK_PX, step_px=STEP_PX, reach_px=REACH_PX)
    sure = matches.confidence > SURE
    distance = np.hypot(*(matches.moved - field(matches.points)).T)[sure]
    ours, theirs = first.normalised(1, _WINDOW_PX), second.normalised(1, _WINDOW_PX)
    theirs_aligned, _ = theirs.at(places)
    return Figures(
        he_structure=float((contrast(first)[0] > NUCLEI).mean()),
        ihc_structure=float(anything(second).mean()),
        he_detail=detail(first),
        ihc_detail=detail(second),
        agreement=agreement,
        mirrored_agreement=mirrored_agreement(coarsest(first), coarsest(second))
        if agreement < bars.agreement
        else math.nan,
        seen=float(visible[nuclei].mean()) if nuclei.any() else math.nan,
        covered=float(covered.mean()),
        blocks=int(sure.sum()),
        matched_blocks=int((distance <= MATCHED_PX * 2 * first.pitch).sum()),
        residual_px=float(np.median(distance)) if sure.any() else math.nan,
        moved_px=float(np.median(np.hypot(*field.on(first.box)))),
        correlation_before=correlation(ours.values[0], theirs.values[0], np.ones_like(covered)),
        correlation_after=correlation(ours.values[0], theirs_aligned[0], covered),
        smallest_determinant=field.smallest_determinant(first.box),
    )


def contrast(channels: Channels) -> Values:
    """Standard deviation around each pixel, C x h x w."""
    window = (0, _WINDOW_PX, _WINDOW_PX)
    blurred = gaussian_filter(channels.values, (0, 0.75, 0.75))
    mean = uniform_filter(blurred, window)
    result: Values = np.sqrt(np.maximum(uniform_filter(blurred**2, window) - mean**2, 0))
    return result


def detail(channels: Channels) -> float:
    """Strength of haematoxylin's detail of about 1 px against that of about 4 px; 0 for an even image."""
    half, one, two, four = (gaussian_filter(channels.values[0], px) for px in (0.5, 1, 2, 4))
    coarse = float(np.square(two - four).mean())
    return math.sqrt(float(np.square(half - one).mean()) / coarse) if coarse > 0 else 0.0


def mirrored_agreement(first: Channels, second: Channels) -> float:
    """As `turn_and_shift`, for the second section mirrored left to right or top to bottom."""
    return max(turn_and_shift(first, Channels(second.values[flip].copy(), second.pitch))[1] for flip in _FLIPS)


def anything(channels: Channels) -> NDArray[np.bool_]:
    """Where there is anything to see, h x w."""
    haematoxylin, tissue = contrast(channels)
    found: NDArray[np.bool_] = (haematoxylin > ANYTHING[0]) | (tissue > ANYTHING[1])
    return found
