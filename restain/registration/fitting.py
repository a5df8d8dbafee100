"""Robust fit of a smooth field to matches of which some are wrong."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import SuperLU, splu

from restain.errors import InputError
from restain.registration.field import Field, Floats, Map, Raster, taps

ROUNDS = 10
"""Rounds of reweighting the matches by their residuals."""
FIRST_TOLERANCE = 8.0
"""How much more may be missed in the first round than in the last; it sinks by the same factor from round to round."""
LEAST_MATCHES = 3
"""Fewest matches for a fit."""


@dataclass(frozen=True)
class Matches:
    """Positions in the first section and those of the same tissue in the second."""

    points: Floats
    """N x 2 (x, y) in µm."""
    moved: Floats
    """N x 2 (x, y) in µm."""
    confidence: Floats
    """0 to 1, N."""

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, chosen: NDArray[np.bool_]) -> "Matches":
        """Some of them."""
        return Matches(self.points[chosen], self.moved[chosen], self.confidence[chosen])

    @classmethod
    def joined(cls, parts: "list[Matches]") -> "Matches":
        """All matches of several."""
        return cls(
            np.concatenate([part.points for part in parts]),
            np.concatenate([part.moved for part in parts]),
            np.concatenate([part.confidence for part in parts]),
        )


@dataclass(frozen=True)
class Fit:
    """A field and its residuals at the matches."""

    field: Field
    weights: Floats
    """How much each match counted in the end, 0 to 1, N: its confidence, less where the field misses it."""
    misses: Floats
    """Distance between where a match was found and where the field leads, in µm, N."""

    @property
    def believed(self) -> NDArray[np.bool_]:
        """The matches that counted at least half of their confidence, N."""
        return self.kept >= 0.5

    kept: Floats
    """Share of its confidence that each match kept, 0 to 1, N."""


def fit_field(
    matches: Matches, box: Raster, spacing: float, smoothing: float, tolerance: float, start: Map | None = None
) -> Fit:
    """Fit a smooth field; matches that no smooth field meets lose their weight.

    The mean over the area of w r² + smoothing⁴ · |second derivatives of d|² is minimised, a thin-plate spline on a
    grid: bends of the field that are shorter than about 2π · smoothing are damped. A match that is missed by r weighs
    w = confidence / (1 + (r / tolerance)²)² (Geman & McClure 1987); the tolerance begins `FIRST_TOLERANCE` times as
    large, so that the first rounds find what most matches agree on (Black & Rangarajan, "On the unification of line
    processes, outlier rejection, and robust statistics", 1996).

    Args:
        matches: at least `LEAST_MATCHES`.
        box: where the field is needed.
        spacing: about how far apart its control points shall be, in µm.
        smoothing: length in µm.
        tolerance: how far a right match may be missed, in µm.
        start: where the first round expects matches; None asks all alike.

    Raises:
        InputError: there are too few matches, or none with confidence.
    """
    count = int((matches.confidence > 0).sum())
    if count < LEAST_MATCHES:
        raise InputError(f"{count} matches are too few to estimate a displacement; at least {LEAST_MATCHES} are needed")
    zero = Field.zero(box, spacing)
    design = design_matrix(zero, matches.points)
    area = box.width * box.height * box.mpp**2 / matches.confidence.sum()
    stiffness = smoothing**4 * bending(zero) + 1e-9 * area * sparse.identity(zero.coefficients[0].size)
    wanted = matches.moved - matches.points
    scales = tolerance * FIRST_TOLERANCE ** np.linspace(1, 0, ROUNDS)
    kept = np.ones(len(matches)) if start is None else _kept(matches.moved - start(matches.points), scales[0])
    for scale in scales:
        weighted = design.multiply((area * matches.confidence * kept)[:, None]).T.tocsc()
        coefficients = symmetric_lu(weighted @ design + stiffness).solve(weighted @ wanted)
        missed = wanted - design @ coefficients
        kept = _kept(missed, scale)
    field = Field(coefficients.T.reshape(zero.coefficients.shape), zero.origin, zero.spacing)
    return Fit(field, matches.confidence * kept, np.hypot(*missed.T), kept)


def symmetric_lu(matrix: sparse.csr_array) -> SuperLU:
    """Factors of a symmetric positive definite matrix, in the order that keeps them sparse."""
    return splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})


def design_matrix(field: Field, points: Floats) -> sparse.csr_array:
    """The weights of a field's control points at positions, sparse, N x (h · w)."""
    _, height, width = field.coefficients.shape
    column, by_column = taps((points[:, 0] - field.origin[0]) / field.spacing, width)
    row, by_row = taps((points[:, 1] - field.origin[1]) / field.spacing, height)
    four = np.arange(4)
    places = (row[:, None, None] + four[:, None]) * width + (column[:, None, None] + four)
    weights = by_row.T[:, :, None] * by_column.T[:, None, :]
    owner = np.repeat(np.arange(len(points)), 16)
    return sparse.csr_array((weights.ravel(), (owner, places.ravel())), shape=(len(points), height * width))


def bending(field: Field) -> sparse.csr_array:
    """The matrix E with c E c = integral of d_xx² + 2 d_xy² + d_yy² for one part of a field, by differences."""
    _, height, width = field.coefficients.shape
    one_y, one_x = sparse.identity(height), sparse.identity(width)
    first_y, first_x = (sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(n - 1, n)) for n in (height, width))
    second_y, second_x = (
        sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(n - 2, n)) for n in (height, width)
    )
    parts = (
        (1, sparse.kron(one_y, second_x)),
        (2, sparse.kron(first_y, first_x)),
        (1, sparse.kron(second_y, one_x)),
    )
    return sum(factor * (part.T @ part) for factor, part in parts) / field.spacing**2


def _kept(missed: Floats, scale: float) -> Floats:
    kept: Floats = 1 / (1 + (missed**2).sum(1) / scale**2) ** 2
    return kept
