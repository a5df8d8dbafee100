"""The cells: their positions, sizes, kinds, and whether they are positive.

Every kind of cell has its own jittered lattice. A place of the lattice holds a pile of cells, one below the other, and
a section cuts one of each pile: near its middle, where the nucleus is wide, or near its end, where it is missed. A
section a few µm deeper meets most cells again, cut elsewhere, and some others in their place.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from restain.data.phantom.anatomy import Bounds, Survey
from restain.data.phantom.noise import (
    Amounts,
    Coordinates,
    Hashes,
    Lattice,
    hash_lattice,
    normal,
    scramble,
    smoothstep,
    uniform,
)
from restain.randomness import derive_seed

TUMOUR, STROMA, LYMPHOCYTE = 0, 1, 2
KINDS = ("tumour", "stroma", "lymphocyte")
"""The kinds of cells; a cell's kind is its index here."""

LOOKS_NOISE = 0.10
"""Deviation of what a tumour cell shows (its looks) from the activity of its region."""

HIDDEN_NOISE = 0.08
"""Deviation of what a tumour cell expresses from its looks: the part of positivity that no H&E can tell."""

POSITIVE_EXPRESSION = 0.5
"""Expression above which a cell is positive."""

REACH_UM = 32.0
"""No cell paints farther from its place on the lattice than this."""

_LEAST_CUT = 0.6  # a nucleus that the section grazes, leaving less than this share of its radius, is not seen


class CellLattice(NamedTuple):
    """The lattice of one kind of cell."""

    pitch_um: float
    jitter: float
    height_um: float
    """Distance from one cell of a pile to the next."""


LATTICES = (CellLattice(9.6, 0.58, 11.0), CellLattice(17.0, 0.9, 8.0), CellLattice(7.4, 0.8, 7.5))
"""Of tumour, stroma and lymphocytes."""


@dataclass(frozen=True)
class Population:
    """The cells of one section, one array entry each. Lengths in µm, from the origin of the tissue."""

    kind: NDArray[np.int64]
    x: Coordinates
    y: Coordinates
    long_um: Amounts
    """Half the length of the cell."""
    short_um: Amounts
    """Half the width of the cell."""
    angle: Amounts
    """Direction of the length, radians from the x axis towards the y axis."""
    nucleus: Amounts
    """Size of the nucleus as cut by the section, as a share of the cell; 0 where it is missed."""
    looks: Amounts
    """Tumour cells: 0 small, dark, bland to 1 large, pale, with nucleolus and pink cytoplasm. 0 for all others."""
    expression: Amounts
    """How much marker the cell carries; positive above `POSITIVE_EXPRESSION`."""
    chance: Hashes
    """The cell's own random number."""

    @property
    def nucleus_radius_um(self) -> Amounts:
        """Radius of the circle with the area of the nucleus as cut."""
        return np.asarray(np.sqrt(self.long_um * self.short_um) * self.nucleus, np.float32)

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Whether each cell is positive."""
        return np.asarray((self.kind == TUMOUR) & (self.expression > POSITIVE_EXPRESSION))

    def chosen(self, which: NDArray[np.bool_]) -> "Population":
        """The cells where `which` holds."""
        return Population(**{name: values[which] for name, values in vars(self).items()})


def populate(seed: int, survey: Survey, box_um: Bounds, z: float) -> Population:
    """List the cells that can be seen in a box (left, top, right, bottom), in an order that no window changes."""
    kinds = [_population(seed, kind, survey, box_um, z) for kind in (TUMOUR, STROMA, LYMPHOCYTE)]
    return Population(**{name: np.concatenate([vars(cells)[name] for cells in kinds]) for name in vars(kinds[0])})


def _population(seed: int, kind: int, survey: Survey, box_um: Bounds, z: float) -> Population:
    """List the cells of one kind."""
    layout = LATTICES[kind]
    x, y, chance, cut = _pile(derive_seed(seed, "phantom", "cells", kind), layout, box_um, z)
    place = uniform(chance, 1)
    epithelium, lumen = survey.epithelium.sample(x, y), survey.lumen.sample(x, y)
    glass = (survey.tissue.sample(x, y) < 3) | (survey.cleft.sample(x, y) > 0)
    if kind == TUMOUR:
        present = (epithelium > 2.5) & (lumen < -1)
    elif kind == STROMA:
        present = (epithelium < -4) & (place < 0.75 - 0.12 * survey.loose.sample(x, y)) & ~glass
    else:
        crowd = survey.inflammation.sample(x, y)
        present = (place < np.where(epithelium < -4, crowd, 0.02 * crowd)) & (lumen < -4) & ~glass
    x, y, chance, cut = x[present], y[present], chance[present], cut[present]
    looks = expression = np.zeros(x.shape, np.float32)
    if kind == TUMOUR:
        looks = np.clip(survey.activity.sample(x, y) + LOOKS_NOISE * normal(chance, 4), 0, 1)
        expression = looks + HIDDEN_NOISE * normal(chance, 9)
        x, y = _towards_base(survey, x, y)
        long_um, short_um, angle, share = _tumour(survey, x, y, chance, looks)
    elif kind == STROMA:
        long_um, short_um, angle, share = _stroma(survey, x, y, chance)
    else:
        long_um, short_um, angle, share = _lymphocyte(chance)
    return Population(
        kind=np.full(x.shape, kind, np.int64),
        x=x,
        y=y,
        long_um=long_um,
        short_um=short_um,
        angle=angle,
        nucleus=np.where(cut > _LEAST_CUT, cut * share, 0).astype(np.float32),
        looks=looks,
        expression=expression.astype(np.float32),
        chance=chance,
    )


def _pile(key: int, layout: CellLattice, box_um: Bounds, z: float) -> tuple[Coordinates, Coordinates, Hashes, Amounts]:
    """Cut the piles of a lattice: place and random number of the cell in each, and how wide it is cut (0 to 1)."""
    left, top, right, bottom = box_um
    row_um = layout.pitch_um * 0.87
    columns = np.arange(int(np.floor(left / layout.pitch_um)) - 2, int(np.floor(right / layout.pitch_um)) + 3)
    rows = np.arange(int(np.floor(top / row_um)) - 2, int(np.floor(bottom / row_um)) + 3)
    pile = hash_lattice(key, columns[None, :], rows[:, None])
    height = z / layout.height_um + uniform(pile, 1)
    floor = np.floor(height)
    chance = scramble(pile + floor.astype(np.int64).astype(np.uint64))
    off_centre = (height - floor - 0.5) * 2  # -1 at the top of the cell, 1 at its bottom
    cut = np.sqrt(np.maximum(1 - (0.92 * off_centre) ** 2, 0)).astype(np.float32)
    x = columns[None, :] + 0.5 * (rows[:, None] % 2) + layout.jitter * (uniform(chance, 2) - 0.5)
    y = rows[:, None] + layout.jitter * (uniform(chance, 3) - 0.5)
    x, y = x * layout.pitch_um, y * row_um
    seen = (x > left) & (x < right) & (y > top) & (y < bottom)
    return x[seen], y[seen], chance[seen], cut[seen]


Shape = tuple[Amounts, Amounts, Amounts, float]
"""Half length, half width, angle, and the whole nucleus as a share of the cell."""


def _tumour(survey: Survey, x: Coordinates, y: Coordinates, chance: Hashes, looks: Amounts) -> Shape:
    """Polygonal in nests; in the wall of a gland columnar, pointing to the lumen."""
    wall = smoothstep(-26, -12, survey.lumen.sample(x, y))
    inwards = _direction(survey.epithelium, x, y)
    angle = np.where(wall > 0.3, inwards + 0.25 * normal(chance, 5), np.float32(np.pi) * uniform(chance, 6))
    stretch = np.sqrt(1 + 0.35 * uniform(chance, 7) + 0.55 * wall)
    radius = (3.1 + 1.4 * looks) * (1 + 0.09 * normal(chance, 6)) / 0.66
    return radius * stretch, radius / stretch, angle, 0.66


def _towards_base(survey: Survey, x: Coordinates, y: Coordinates) -> tuple[Coordinates, Coordinates]:
    """Crowd the cells in the wall of a gland away from the lumen."""
    inwards = _direction(survey.epithelium, x, y)
    depth_um = survey.epithelium.sample(x, y)
    shift_um = np.clip(0.45 * (depth_um - 7), 0, 6) * smoothstep(-16, -8, survey.lumen.sample(x, y))
    return x - shift_um * np.cos(inwards), y - shift_um * np.sin(inwards)


def _stroma(survey: Survey, x: Coordinates, y: Coordinates, chance: Hashes) -> Shape:
    """Spindles along the fibres: nothing but nucleus."""
    angle = _direction(survey.across, x, y) + np.float32(np.pi / 2) + 0.12 * normal(chance, 5)
    return 6.3 * (1 + 0.22 * normal(chance, 6)), 1.45 * (1 + 0.25 * normal(chance, 7)), angle, 1.0


def _lymphocyte(chance: Hashes) -> Shape:
    """Small and round, with a thin rim of cytoplasm."""
    radius = 2.6 * (1 + 0.10 * normal(chance, 6)) / 0.9
    stretch = np.sqrt(1 + 0.2 * uniform(chance, 7))
    return radius * stretch, radius / stretch, np.float32(np.pi) * uniform(chance, 8), 0.9


def _direction(region: Lattice, x: Coordinates, y: Coordinates) -> Amounts:
    """Angle in which a coordinate of the survey rises fastest."""
    right = region.sample(x + 1.0, y) - region.sample(x - 1.0, y)
    down = region.sample(x, y + 1.0) - region.sample(x, y - 1.0)
    return np.asarray(np.arctan2(down, right), np.float32)
