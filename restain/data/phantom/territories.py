"""Which pixel belongs to which cell: a Voronoi diagram in which every cell is an ellipse."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from restain.data.phantom.cells import Population
from restain.data.phantom.noise import Amounts, Coordinates

_TERRITORY = np.array([1.75, 1.15, 1.3])
"""How far a cell of each kind reaches, in its own outlines, where no neighbour is in the way."""

_FAR = np.float32(16)


@dataclass(frozen=True)
class Territories:
    """The owner of each pixel, H x W each. Distances are measured in the cell's own outline, which lies at 1."""

    owner: NDArray[np.int64]
    """Index of the cell, or the number of cells where there is none."""
    distance: Amounts
    """Distance from the owner's centre."""
    gap: Amounts
    """How much farther the second nearest cell is."""

    def spread(self, values: NDArray[np.floating]) -> Amounts:
        """Give one value of each cell to its pixels, 0 where there is no cell: H x W."""
        return np.append(values, 0).astype(np.float32)[self.owner]


def divide(cells: Population, xs: Coordinates, ys: Coordinates) -> Territories:
    """Give every crossing of `xs` and `ys` (µm) to the cell whose outline is nearest."""
    nearest = np.full((len(ys), len(xs)), _FAR, np.float32)
    second = nearest.copy()
    owner = np.full(nearest.shape, len(cells.x), np.int64)
    reach = np.take(_TERRITORY, cells.kind)
    xx, xy, yy = _ellipses(cells)
    width, height = (reach * np.sqrt(part / (xx * yy - xy**2 / 4)) for part in (yy, xx))  # half, of the box around
    left, right = np.searchsorted(xs, cells.x - width), np.searchsorted(xs, cells.x + width)
    top, bottom = np.searchsorted(ys, cells.y - height), np.searchsorted(ys, cells.y + height)
    for index in np.flatnonzero((left < right) & (top < bottom)):
        rows, columns = slice(top[index], bottom[index]), slice(left[index], right[index])
        dx = (xs[columns] - cells.x[index]).astype(np.float32)
        dy = (ys[rows] - cells.y[index]).astype(np.float32)[:, None]
        squared = (np.float32(xy[index]) * dy) * dx
        squared += np.float32(xx[index]) * dx * dx
        squared += np.float32(yy[index]) * dy * dy
        squared[squared > reach[index] ** 2] = _FAR
        leader = nearest[rows, columns]
        wins = squared < leader
        np.minimum(second[rows, columns], np.maximum(squared, leader), out=second[rows, columns])
        np.minimum(leader, squared, out=leader)
        owner[rows, columns][wins] = index
    distance = np.sqrt(nearest)
    return Territories(owner, distance, np.sqrt(second) - distance)


def _ellipses(cells: Population) -> tuple[Coordinates, Coordinates, Coordinates]:
    """Coefficients of xx·dx² + xy·dx·dy + yy·dy², which is 1 on each cell's outline."""
    cos, sin = np.cos(cells.angle.astype(np.float64)), np.sin(cells.angle.astype(np.float64))
    a, b = cells.long_um.astype(np.float64) ** -2, cells.short_um.astype(np.float64) ** -2
    return cos**2 * a + sin**2 * b, 2 * cos * sin * (a - b), sin**2 * a + cos**2 * b
