"""A field made exact: what differs between two sections, pixel by pixel, moves the control points of a smooth field.

Gauss–Newton on the squared difference of normalised channels (Lucas & Kanade, IJCAI 1981, with the mean of both
gradients as in Benhimane & Malis, IROS 2004), over the coefficients of a B-spline that is stiff as a thin plate. What
differs too much, as a nucleus that only one section cuts, loses its weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from restain.registration.channels import CHANNEL_WEIGHTS, Channels, Values, correlation
from restain.registration.field import Field, Floats, Raster, basis
from restain.registration.fitting import bending, design_matrix, symmetric_lu

OUTLIER = 1.4
"""Difference of normalised channels at which a pixel keeps a quarter of its weight (Geman & McClure)."""
STIFFNESS_PX = 8.6
"""Bends shorter than about 2π times this are damped where sections correlate by 0.5, in px of the finest channels. The
better they correlate, the shorter the bends that can be told from noise: it is half of that at 0.93, twice at 0.1."""
NOISE_EXPONENT = 1.3
"""Of (1 - correlation) / correlation, to which the energy of bending counts. 1 would be right for noise that no pixel
shares with its neighbours; 1.3 is better where nuclei come and go."""
LEAST_CORRELATION, MOST_CORRELATION = 0.05, 0.98
"""Correlations outside of this do not change the stiffness any further."""
_POOL_PX = 4  # side of the squares over which equations are added up; a spline hardly changes over them
_RIDGE = 1e-6  # of the mean diagonal, for control points beyond all tissue


@dataclass(frozen=True)
class Level:
    """How one round of refinement looks at the channels."""

    halvings: int
    """How often they are averaged over 2 x 2 px."""
    blur_px: float
    """In px after that."""
    window_px: int
    """Of the normalisation, in px after that."""
    stiffness: float
    """Times `STIFFNESS_PX`."""
    steps: int


LEVELS = (Level(1, 1.0, 25, 1.5, 2), Level(1, 0.5, 17, 1.0, 2), Level(0, 0.5, 25, 1.0, 3))


def refined(
    first: Channels, second: Channels, start: Field, levels: Sequence[Level] = LEVELS, stiffness: float = 1.0
) -> Field:
    """Improve a field that is right within about the size of a nucleus.

    Args:
        first: the section that the field starts from, as from `shared_channels`.
        second: the section that it leads to, the same size.
        start: the field so far; the result has its control points.
        levels: rounds, the coarsest first.
        stiffness: times that of the levels.

    Returns:
        The better field.
    """
    field = start
    energy = bending(start)
    for level in levels:
        sides = first, second
        for _ in range(level.halvings):
            sides = sides[0].halved(), sides[1].halved()
        ours, theirs = (side.normalised(level.blur_px, level.window_px) for side in sides)
        length = stiffness * level.stiffness * STIFFNESS_PX * first.pitch
        problem = _Problem(ours, theirs, field)
        for _ in range(level.steps):
            field = problem.step(field, length, energy)
    return field


class _Problem:
    """Two sections on one grid of pixels, and the equations that tell how to move a field."""

    def __init__(self, first: Channels, second: Channels, field: Field) -> None:
        box, pool = first.box, _POOL_PX if min(first.values.shape[1:]) >= 32 * _POOL_PX else _POOL_PX // 2
        self._box, self._pool, self._pitch = box, pool, first.pitch
        self._first = first.values
        self._slopes = _slopes(first.values, first.pitch)
        both = np.concatenate([second.values, *_slopes(second.values, second.pitch)])
        self._second = Channels(both, second.pitch)
        self._places = np.stack(np.meshgrid(box.columns, box.rows))
        pooled = Raster(box.x, box.y, -(-box.width // pool), -(-box.height // pool), box.mpp * pool)
        x, y = np.meshgrid(pooled.columns, pooled.rows)
        self._design = design_matrix(field, np.stack([x.ravel(), y.ravel()], axis=1)).tocsr()
        self._transposed = self._design.T.tocsr()
        _, height, width = field.coefficients.shape
        self._rows = basis(box.rows, field.origin[1], field.spacing, height)
        self._columns = basis(box.columns, field.origin[0], field.spacing, width)

    def step(self, field: Field, length: float, energy: sparse.csr_array) -> Field:
        """One step towards the field at which both sections look alike."""
        theirs, inside = self._seen(field)
        count = len(self._first)
        pulls = np.zeros((5, *inside.shape), np.float32)
        for channel, weight in enumerate(CHANNEL_WEIGHTS):
            difference = theirs[channel] - self._first[channel]
            x, y = ((theirs[count * (axis + 1) + channel] + self._slopes[axis][channel]) / 2 for axis in (0, 1))
            counts = weight * inside / (1 + (difference / OUTLIER) ** 2) ** 2
            pulls += counts * np.stack([x * x, x * y, y * y, x * difference, y * difference])
        xx, xy, yy, x_pull, y_pull = (self._added_up(pull) for pull in pulls)

        fit = np.clip(correlation(self._first[0], theirs[0], inside), LEAST_CORRELATION, MOST_CORRELATION)
        area = inside.size * self._pitch**2
        noise = ((1 - fit) / fit) ** NOISE_EXPONENT
        stiffness = (xx + yy).sum() / 2 / area * length**4 * noise * energy
        design, transposed = self._design, self._transposed
        of_xx, of_xy, of_yy = (transposed @ design.multiply(pull[:, None]) for pull in (xx, xy, yy))
        matrix = sparse.block_array([[of_xx + stiffness, of_xy], [of_xy, of_yy + stiffness]]).tocsc()
        ridge = _RIDGE * matrix.diagonal().mean() + np.finfo(float).tiny
        matrix = matrix + ridge * sparse.identity(matrix.shape[0], format="csc")
        before = field.coefficients.reshape(2, -1)
        wanted = [transposed @ pull + stiffness @ part for pull, part in zip((x_pull, y_pull), before, strict=True)]
        change = -symmetric_lu(matrix).solve(np.concatenate(wanted)).reshape(field.coefficients.shape)
        return Field(field.coefficients + change, field.origin, field.spacing)

    def _seen(self, field: Field) -> tuple[Values, Values]:
        """The second section's channels and slopes where the field leads, and which pixels are wholly inside."""
        moved = self._rows @ field.coefficients @ self._columns.T
        drawn, inside = self._second.at(self._places + moved)
        return drawn, (inside > 0.99).astype(np.float32)

    def _added_up(self, image: Values) -> Floats:
        """Sums over squares, one after the other."""
        pool = self._pool
        height, width = image.shape
        padded = np.pad(image, ((0, -height % pool), (0, -width % pool)))
        squares = padded.reshape(padded.shape[0] // pool, pool, padded.shape[1] // pool, pool)
        sums: Floats = squares.sum((1, 3), dtype=np.float64).ravel()
        return sums


def _slopes(values: Values, pitch: float) -> tuple[Values, Values]:
    """Derivatives in x and in y, C x h x w each."""
    along_x, along_y = (np.asarray(np.gradient(values, pitch, axis=axis), np.float32) for axis in (2, 1))
    return along_x, along_y
