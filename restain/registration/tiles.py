"""Tiles of neighbouring sections in register: find how the IHC is displaced against the H&E.

From coarse to fine: one turn and shift for the whole tile, blocks around it, then every pixel.
"""

from dataclasses import dataclass

from torch import Tensor

from restain.registration.channels import shared_channels
from restain.registration.coarse import matched_blocks, turn_and_shift
from restain.registration.field import Box, Field, field_of
from restain.registration.fitting import LEAST_MATCHES, fit_field
from restain.registration.refine import refined

WORK_PX = 256
"""Longest side of a tile when it is matched; the numbers below are px at that size."""
SPACING_PX = 12.0
"""Of the field's control points."""
BLOCK_ROUNDS = ((48, 12, 20.0, 4.0), (28, 6, 16.0, 2.0))
"""Side of a block and how far it is sought, in px of the halved channels; smoothing and tolerance of the field behind."""
LEAST_DETERMINANT = 0.1
"""A field that shrinks an area to less than this share of it is made stiffer."""


@dataclass(frozen=True)
class Alignment:
    """What was found about a pair. Positions are in px of the tile, 0 at its upper left corner."""

    field: Field
    """What lies at p in the H&E lies at p + d(p) in the IHC."""
    box: Box
    """The tile."""
    correlation: float
    smallest_determinant: float


def align_tile(he: Tensor, ihc: Tensor) -> Alignment:
    """Find how the IHC of a neighbouring section is displaced against the H&E.

    Args:
        he: 1 x 3 x H x W in [-1, 1].
        ihc: the same shape.
    """
    first, second = (shared_channels(image, WORK_PX) for image in (he, ihc))
    unit = first.pitch
    box = Box(0, 0, he.shape[-1], he.shape[-2], 1.0)
    small = first.halved(), second.halved()
    smallest = [side.halved().halved().normalised(0.75, 15) for side in small]
    start, _ = turn_and_shift(smallest[0], smallest[1])
    ours, theirs = (side.normalised(0.75, 25) for side in small)
    guess = field_of(start, box, 16 * unit)
    for block_px, reach_px, smoothing_px, tolerance_px in BLOCK_ROUNDS:
        matches = matched_blocks(ours, theirs, guess, block_px=block_px, step_px=8, reach_px=reach_px)
        if (matches.confidence > 0).sum() < LEAST_MATCHES:
            break
        guess = fit_field(matches, box, 16 * unit, smoothing_px * unit, tolerance_px * unit).field
    begin = field_of(guess, box, SPACING_PX * unit)
    stiffness = 1.0
    while True:
        field, correlation = refined(first, second, begin, stiffness=stiffness)
        determinant = field.smallest_determinant(box)
        if determinant >= LEAST_DETERMINANT or stiffness > 30:
            return Alignment(field, box, correlation, determinant)
        stiffness *= 1.5
