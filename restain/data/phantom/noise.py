"""Random fields that are defined everywhere at once, so that any window of them can be drawn without the rest.

Random numbers are hashed from integer coordinates instead of drawn one after the other. Every value depends on its own
coordinates alone and is computed element by element, so windows that overlap agree bit for bit.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Amounts = NDArray[np.floating]
"""Values of a field, float32."""
Coordinates = NDArray[np.floating]
"""Places in µm, float64."""
Hashes = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, the increment of splitmix64
_REACH = 2  # lattice points that a cubic B-spline looks at on either side
_UNIT_VARIANCE = np.float32(np.sqrt(12) / 0.48)  # uniform values spread over a B-spline keep 0.48 of their deviation


def scramble(values: Hashes) -> Hashes:
    """Turn every integer into a random-looking one (the finaliser of splitmix64; Steele, Lea & Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_lattice(key: int, columns: NDArray[np.int64], rows: NDArray[np.int64]) -> Hashes:
    """Hash a key and integer coordinates, which are broadcast against each other."""
    rows_hashed = scramble(rows.astype(np.uint64) * _STEP + np.uint64(key))
    return scramble(columns.astype(np.uint64) * _STEP + rows_hashed)


def uniform(hashes: Hashes, draw: int = 0) -> Amounts:
    """Turn hashes into numbers in [0, 1); every `draw` gives others."""
    again = scramble(hashes + np.uint64(draw * int(_STEP) % 2**64)) if draw else hashes
    return (again >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def normal(hashes: Hashes, draw: int = 0) -> Amounts:
    """Turn hashes into numbers of mean 0 and deviation 1, none beyond 3.5 (a sum of four uniform ones)."""
    total = np.zeros(hashes.shape, np.float32)
    for part in range(4):
        total += uniform(hashes, 1000 + 4 * draw + part)
    return np.asarray((total - 2) * np.float32(np.sqrt(3)))


def smoothstep(low: float, high: float, values: Amounts) -> Amounts:
    """Rise smoothly from 0 where `values` <= `low` to 1 where `values` >= `high`; fall where `low` > `high`."""
    t = np.clip((values - low) * (1 / (high - low)), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


class Lattice(NamedTuple):
    """Values on a square lattice: `values[j, i]` stands at ((column + i)·pitch, (row + j)·pitch)."""

    values: Amounts
    column: int
    row: int
    pitch_um: float

    def grid(self, xs: Coordinates, ys: Coordinates) -> Amounts:
        """Interpolate by cubic B-splines at every crossing of `xs` and `ys` (µm): len(ys) x len(xs)."""
        columns, column_weights = _taps(xs / self.pitch_um, self.column)
        rows, row_weights = _taps(ys / self.pitch_um, self.row)
        across = sum(weight * self.values[:, columns + tap] for tap, weight in enumerate(column_weights))
        across = np.asarray(across, np.float32)
        total = np.zeros((len(ys), len(xs)), np.float32)
        for tap, weight in enumerate(row_weights):
            total += weight[:, None] * across[rows + tap]
        return total

    def sample(self, x: Coordinates, y: Coordinates) -> Amounts:
        """Interpolate by cubic B-splines at points (µm) of any shape."""
        columns, column_weights = _taps(x / self.pitch_um, self.column)
        rows, row_weights = _taps(y / self.pitch_um, self.row)
        total = np.zeros(np.shape(x), np.float32)
        for down, row_weight in enumerate(row_weights):
            for across, column_weight in enumerate(column_weights):
                total += row_weight * column_weight * self.values[rows + down, columns + across]
        return total


class Noise:
    """A smooth random field of mean 0 and deviation about 1 over the plane.

    Args:
        key: what tells this field from others (`derive_seed`).
        pitch_um: distance of its lattice points; blobs are about twice as wide.
        depth_um: how fast the field turns into another one below the plane; None: the same at every depth.
    """

    def __init__(self, key: int, pitch_um: float, depth_um: float | None = None) -> None:
        self.key, self.pitch_um, self.depth_um = key, pitch_um, depth_um

    def grid(self, xs: Coordinates, ys: Coordinates, z: float = 0.0) -> Amounts:
        """Values at every crossing of `xs` and `ys` (µm, ascending), `z` µm below the plane."""
        return self._lattice(xs, ys, z).grid(xs, ys)

    def sample(self, x: Coordinates, y: Coordinates, z: float = 0.0) -> Amounts:
        """Values at points (µm) of any shape, `z` µm below the plane."""
        if np.size(x) == 0:
            return np.zeros(np.shape(x), np.float32)
        return self._lattice(x, y, z).sample(x, y)

    def _lattice(self, x: Coordinates, y: Coordinates, z: float) -> Lattice:
        """Hash the lattice points that the given coordinates need."""
        columns = np.arange(_floor(x.min() / self.pitch_um) - 1, _floor(x.max() / self.pitch_um) + 1 + _REACH)
        rows = np.arange(_floor(y.min() / self.pitch_um) - 1, _floor(y.max() / self.pitch_um) + 1 + _REACH)
        values = uniform(hash_lattice(self.key, columns[None, :], rows[:, None])) - np.float32(0.5)
        if self.depth_um is not None and z != 0:  # turning one field into another keeps the deviation at every depth
            other = uniform(hash_lattice(self.key + 1, columns[None, :], rows[:, None])) - np.float32(0.5)
            angle = z / self.depth_um
            values = np.float32(np.cos(angle)) * values + np.float32(np.sin(angle)) * other
        return Lattice(values * _UNIT_VARIANCE, int(columns[0]), int(rows[0]), self.pitch_um)


def streaks(key: int, u: Amounts, v: Amounts) -> Amounts:
    """Look up a random texture of lattice distance 1, mean 0 and deviation about 0.7; it repeats every 256."""
    texture = normal(hash_lattice(key, np.arange(256)[None, :], np.arange(256)[:, None])).ravel()
    below_u, below_v = np.floor(u), np.floor(v)
    rise_u, rise_v = smoothstep(0, 1, u - below_u), smoothstep(0, 1, v - below_v)
    i, j = below_u.astype(np.int32) & 255, below_v.astype(np.int32) & 255
    first, second = i << 8, ((i + 1) & 255) << 8
    j_next = (j + 1) & 255
    low, high = texture[first | j], texture[second | j]
    low += (texture[first | j_next] - low) * rise_v
    high += (texture[second | j_next] - high) * rise_v
    return np.asarray(low + (high - low) * rise_u)


def _floor(value: float) -> int:
    return int(np.floor(value))


def _taps(position: Coordinates, first: int) -> tuple[NDArray[np.int64], tuple[Amounts, ...]]:
    """Index of the first of four lattice points around each position, and the weights of the four."""
    below = np.floor(position)
    t = (position - below).astype(np.float32)
    weights = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
    return below.astype(np.int64) - 1 - first, weights
