"""Registers tiles of neighbouring sections: the displacement of the IHC against the H&E, and whether it is reliable.

From coarse to fine: one turn and shift for the whole tile, blocks around it, then every pixel. Positions are in px of
the tile, 0 at its upper left corner.
"""

from dataclasses import dataclass

from torch import Tensor

from restain.errors import InputError, ShapeError
from restain.registration.channels import Channels, shared_channels
from restain.registration.coarse import coarsest, matched_blocks, turn_and_shift
from restain.registration.field import Affine, Field, Raster, field_of
from restain.registration.fitting import LEAST_MATCHES, fit_field
from restain.registration.refine import refined
from restain.registration.verdict import Bars, Figures, measured, why_not

WORK_PX = 256
"""Longest side of a tile when it is matched; the numbers below are px at that size."""
LEAST_PX = 96
"""Shorter side of a tile, at that size, below which there is too little to match."""
SPACING_PX, GUESS_SPACING_PX = 12.0, 16.0
"""Of the control points of the field, and of the first guess."""
BLOCK_ROUNDS = ((48, 12, 20.0, 4.0), (28, 6, 16.0, 2.0))
"""Side of a block and how far it is sought, in px of the halved channels; smoothing and tolerance of the field."""
STEP_PX = 8
"""Distance of neighbouring blocks, in px of the halved channels."""
LEAST_DETERMINANT = 0.1
"""A field that shrinks an area to less than this share of it is made stiffer."""
STIFFEST = 30.0


@dataclass(frozen=True)
class Alignment:
    """The result for a pair."""

    field: Field
    """What lies at p in the H&E lies at p + d(p) in the IHC."""
    box: Raster
    """The tile."""
    figures: Figures
    why_not: str
    """Why it is rejected; empty if it is accepted."""


def find_field(first: Channels, second: Channels, start: Affine) -> Field:
    """The smooth field from one section to the other.

    Args:
        first: of the H&E, as from `shared_channels`.
        second: of the IHC, the same size.
        start: about where the tile lies, as from `turn_and_shift`.
    """
    unit, box = first.pitch, first.box
    ours, theirs = (side.halved().normalised(0.75, 25) for side in (first, second))
    guess = field_of(start, box, GUESS_SPACING_PX * unit)
    for block_px, reach_px, smoothing_px, tolerance_px in BLOCK_ROUNDS:
        matches = matched_blocks(ours, theirs, guess, block_px=block_px, step_px=STEP_PX, reach_px=reach_px)
        if (matches.confidence > 0).sum() < LEAST_MATCHES:
            break
        guess = fit_field(matches, box, guess.spacing, smoothing_px * unit, tolerance_px * unit).field
    guess = field_of(guess, box, SPACING_PX * unit)
    stiffness = 1.0
    while True:
        field = refined(first, second, guess, stiffness=stiffness)
        if field.smallest_determinant(box) >= LEAST_DETERMINANT or stiffness > STIFFEST:
            return field
        stiffness *= 1.5


def align_tile(he: Tensor, ihc: Tensor, bars: Bars | None = None) -> Alignment:
    """Find how the IHC of a neighbouring section is displaced against the H&E, whatever they show.

    Args:
        he: 1 x 3 x H x W in [-1, 1].
        ihc: the same shape.
        bars: requirements on the pair.

    Raises:
        ShapeError: the sides differ in size.
        InputError: the tile is too small or too narrow to be matched.
    """
    bars = bars or Bars()
    if he.shape != ihc.shape:
        raise ShapeError(f"both sides of a pair must have the same size; got {list(he.shape)} and {list(ihc.shape)}")
    first, second = (shared_channels(image, WORK_PX) for image in (he, ihc))
    if min(first.values.shape[1:]) < LEAST_PX:
        width, height = he.shape[-1], he.shape[-2]
        raise InputError(
            f"a tile of {width} x {height} px is too small to be aligned: its shorter side must have {LEAST_PX} px, "
            f"and {LEAST_PX / WORK_PX:.0%} of the longer one"
        )
    start, agreement = turn_and_shift(coarsest(first), coarsest(second))
    field = find_field(first, second, start)
    figures = measured(first, second, field, agreement, bars)
    return Alignment(field, Raster(0, 0, he.shape[-1], he.shape[-2], 1.0), figures, why_not(figures, bars))
