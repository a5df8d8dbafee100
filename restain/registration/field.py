"""A smooth displacement between two sections on a coarse grid of control points: a uniform cubic B-spline.

The tissue at p in the first section is at p + d(p) in the second. Everything is in µm. B-splines as in Rueckert et
al., "Nonrigid registration using free-form deformations" (IEEE TMI 1999); affine maps are represented exactly, and
beyond the outer control points a field is extrapolated linearly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from restain.errors import ShapeError

Floats = NDArray[np.float64]

Map = Callable[[Floats], Floats]
"""From positions in one section to positions in another, N x 2 (x, y) in µm each."""

_INVERSE_STEPS = 50
_INVERSE_TOLERANCE = 1e-6  # of a control point's spacing
_POINTS_PER_SPACING = 2  # at which a map is sampled, so that the coefficients are overdetermined


@dataclass(frozen=True)
class Raster:
    """A rectangle of pixels on a section."""

    x: float
    """Left edge in µm."""
    y: float
    """Upper edge in µm."""
    width: int
    """In px."""
    height: int
    """In px."""
    mpp: float
    """µm per pixel."""

    @property
    def columns(self) -> Floats:
        """The x of the pixels' centres in µm, W."""
        return self.x + np.arange(0.5, self.width) * self.mpp

    @property
    def rows(self) -> Floats:
        """The y of the pixels' centres in µm, H."""
        return self.y + np.arange(0.5, self.height) * self.mpp

    @property
    def limits(self) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge in µm."""
        return self.x, self.y, self.x + self.width * self.mpp, self.y + self.height * self.mpp


@dataclass(frozen=True)
class Affine:
    """A linear map and a shift: p to M p + t."""

    matrix: Floats
    """2 x 3: M and, in the last column, t in µm."""

    def __post_init__(self) -> None:
        """Check the shape of the matrix."""
        if self.matrix.shape != (2, 3):
            raise ShapeError(f"an affine map has a matrix of 2 x 3, got {' x '.join(map(str, self.matrix.shape))}")

    def __call__(self, points: Floats) -> Floats:
        """Move positions, N x 2 in µm."""
        return points @ self.matrix[:, :2].T + self.matrix[:, 2]

    @property
    def inverse(self) -> "Affine":
        """The inverse map."""
        back = np.linalg.inv(self.matrix[:, :2])
        return Affine(np.column_stack([back, -back @ self.matrix[:, 2]]))

    def after(self, first: "Affine") -> "Affine":
        """The composition: `first`, then this map."""
        linear = self.matrix[:, :2]
        return Affine(np.column_stack([linear @ first.matrix[:, :2], linear @ first.matrix[:, 2] + self.matrix[:, 2]]))

    @classmethod
    def identity(cls) -> "Affine":
        """The identity."""
        return cls(np.eye(2, 3))

    @classmethod
    def fitted(cls, points: Floats, moved: Floats, weights: Floats | None = None) -> "Affine":
        """The affine map of points to their partners by weighted least squares.

        Args:
            points: N x 2, at least 3 that do not lie on a line.
            moved: where they should go, N x 2.
            weights: of each point, N; None weighs all equally.
        """
        root = np.ones(len(points)) if weights is None else np.sqrt(weights)
        middle = np.average(points, axis=0, weights=root**2)
        design = np.column_stack([points - middle, np.ones(len(points))])
        solution = np.linalg.lstsq(design * root[:, None], moved * root[:, None], rcond=None)[0]
        linear = solution[:2].T
        return cls(np.column_stack([linear, solution[2] - linear @ middle]))


@dataclass(frozen=True)
class Field:
    """A smooth displacement: p to p + d(p)."""

    coefficients: Floats
    """Of the B-spline, 2 x h x w (dx, dy) in µm; the field passes near them. h and w are at least 4."""
    origin: tuple[float, float]
    """(x, y) of the first control point in µm."""
    spacing: float
    """Distance of neighbouring control points in µm."""

    def __post_init__(self) -> None:
        """Refuse a grid on which no cubic spline is defined."""
        shape = self.coefficients.shape
        if len(shape) != 3 or shape[0] != 2 or min(shape[1:]) < 4:
            found = " x ".join(map(str, shape))
            raise ShapeError(f"a field has coefficients of 2 x h x w, h and w at least 4; got {found}")

    @classmethod
    def zero(cls, box: Raster, spacing: float) -> "Field":
        """The field that moves nothing, with control points over a box and just beyond its edges.

        Args:
            box: where the field is needed.
            spacing: about how far apart control points shall be, in µm; it is shortened to divide the longer side.
        """
        width, height = box.width * box.mpp, box.height * box.mpp
        spacing = max(width, height) / max(1, round(max(width, height) / spacing))
        columns, rows = (int(np.ceil(side / spacing - 1e-9)) + 3 for side in (width, height))
        return cls(np.zeros((2, rows, columns)), (box.x - spacing, box.y - spacing), spacing)

    def __call__(self, points: Floats) -> Floats:
        """Move positions, N x 2 in µm."""
        return points + self.displacement(points)

    def displacement(self, points: Floats) -> Floats:
        """The displacement d at positions, N x 2 in µm each."""
        return self._sum(points, taps, taps).T

    def jacobian(self, points: Floats) -> Floats:
        """Derivative of p + d(p) at positions, N x 2 x 2; row = component of the result, column = x or y."""
        along_x, along_y = self._sum(points, slopes, taps), self._sum(points, taps, slopes)
        return np.eye(2) + np.stack([along_x.T, along_y.T], axis=-1) / self.spacing

    def determinants(self, box: Raster) -> Floats:
        """How much area grows at the pixels' centres of a box, H x W: 1 is not at all; from 0 down the field folds."""
        (y, y_slope), (x, x_slope) = (
            tuple(basis(places, start, self.spacing, count, kind) for kind in (taps, slopes))
            for places, start, count in self._axes(box)
        )
        along_x, along_y = (
            np.einsum("ih,chw,jw->cij", rows, self.coefficients, columns, optimize=True) / self.spacing
            for rows, columns in ((y, x_slope), (y_slope, x))
        )
        determinants: Floats = (1 + along_x[0]) * (1 + along_y[1]) - along_x[1] * along_y[0]
        return determinants

    def smallest_determinant(self, box: Raster) -> float:
        """The least of `determinants` over a box, looked at four times per spacing; above 0 nothing folds."""
        step = self.spacing / 4
        width, height = (max(2, int(np.ceil(side * box.mpp / step)) + 1) for side in (box.width, box.height))
        return float(self.determinants(Raster(box.x, box.y, width, height, step)).min())

    def on(self, box: Raster) -> Floats:
        """The displacement d at the pixels' centres of a box, 2 x H x W in µm."""
        rows, columns = (basis(places, start, self.spacing, count) for places, start, count in self._axes(box))
        dense: Floats = rows @ self.coefficients @ columns.T
        return dense

    def inverse(self, box: Raster) -> "Field":
        """The field that leads back, true over a box of the second section.

        Each position q is led back to the p with p + d(p) = q by fixed-point iteration, then a field is fitted to them.
        """
        return field_of(lambda points: self.led_back(points), box, self.spacing)

    def led_back(self, points: Floats) -> Floats:
        """For positions q in the second section the p with p + d(p) = q, N x 2 in µm; Newton's method."""
        place = points - self.displacement(points)
        for _ in range(_INVERSE_STEPS):
            error = self(place) - points
            if np.abs(error).max(initial=0) < _INVERSE_TOLERANCE * self.spacing:
                break
            place = place - np.linalg.solve(self.jacobian(place), error[..., None])[..., 0]
        return place

    def _axes(self, box: Raster) -> tuple[tuple[Floats, float, int], tuple[Floats, float, int]]:
        (_, height, width), (left, top) = self.coefficients.shape, self.origin
        return (box.rows, top, height), (box.columns, left, width)

    def _sum(self, points: Floats, kind_x: "Taps", kind_y: "Taps") -> Floats:
        """Weighted sum of the 16 control points around each position, 2 x N."""
        _, height, width = self.coefficients.shape
        column, by_column = kind_x((points[:, 0] - self.origin[0]) / self.spacing, width)
        row, by_row = kind_y((points[:, 1] - self.origin[1]) / self.spacing, height)
        total = np.zeros((2, len(points)))
        for i in range(4):
            for j in range(4):
                total += self.coefficients[:, row + i, column + j] * (by_row[i] * by_column[j])
        return total


Taps = Callable[[Floats, int], tuple[NDArray[np.intp], Floats]]


def taps(places: Floats, count: int) -> tuple[NDArray[np.intp], Floats]:
    """Which control points a place on a line depends on, and how much.

    Args:
        places: N, in spacings from the first control point.
        count: how many control points there are, at least 4.

    Returns:
        The first of the four, N, and their weights, 4 x N, which sum to 1. Before the second and beyond the last but
        one control point, the weights are those of the tangent.
    """
    inside = places.clip(1, count - 2)
    first, t = _cell(inside, count)
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    return first, weights + (places - inside) * _slopes(t)


def slopes(places: Floats, count: int) -> tuple[NDArray[np.intp], Floats]:
    """The derivative of `taps` by the place."""
    first, t = _cell(places.clip(1, count - 2), count)
    return first, _slopes(t)


def basis(places: Floats, start: float, spacing: float, count: int, kind: Taps = taps) -> Floats:
    """The weights of all control points at places on a line, as a matrix N x count.

    Args:
        places: in µm.
        start: of the first control point, in µm.
        spacing: of control points, in µm.
        count: how many there are.
        kind: `taps`, or `slopes` for the derivative per spacing.
    """
    first, weights = kind((places - start) / spacing, count)
    matrix = np.zeros((len(places), count))
    for tap, weight in enumerate(weights):
        matrix[np.arange(len(places)), first + tap] += weight
    return matrix


def field_of(moved: Map, box: Raster, spacing: float) -> Field:
    """The field that does what a map does, over a box; affine maps are met exactly, others by least squares.

    Args:
        moved: from positions to positions, N x 2 in µm.
        box: where it is fitted; beyond, the field is extrapolated linearly.
        spacing: about how far apart control points shall be, in µm.
    """
    zero = Field.zero(box, spacing)
    left, top, right, bottom = box.limits
    x, y = (
        np.linspace(low, high, _POINTS_PER_SPACING * (count - 3) + 3)
        for low, high, count in zip((left, top), (right, bottom), zero.coefficients.shape[:0:-1], strict=True)
    )
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    wanted = (moved(points) - points).T.reshape(2, len(y), len(x))
    rows, columns = (
        np.linalg.pinv(basis(places, start, zero.spacing, count))
        for places, start, count in zip((y, x), zero.origin[::-1], zero.coefficients.shape[1:], strict=True)
    )
    return Field(rows @ wanted @ columns.T, zero.origin, zero.spacing)


def composed(first: Map, second: Map) -> Map:
    """The map that does the first and then the second; `field_of` makes a field of it."""
    return lambda points: second(first(points))


def _cell(inside: Floats, count: int) -> tuple[NDArray[np.intp], Floats]:
    """The first of the four control points around each place, and the place between the middle two, 0 to 1."""
    cell = np.floor(inside).astype(np.intp).clip(1, count - 3)
    return cell - 1, inside - cell


def _slopes(t: Floats) -> Floats:
    return np.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, -3 * t**2 + 2 * t + 1, t**2]) / 2
