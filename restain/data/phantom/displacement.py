"""The displacement of the neighbouring section: a known field of shift, rotation and smooth deformation."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from restain.data.phantom.noise import Coordinates, Lattice, Noise

FIELD_POINTS = 64
"""Points along each side of a stored field."""

_INVERSE_PITCH_PX, _INVERSE_BORDER, _INVERSE_STEPS = 8, 6, 16


class _Shape(NamedTuple):
    """Parts of a displacement, before it is scaled."""

    shift: NDArray[np.float64]
    turn: float
    bend_x: Noise
    bend_y: Noise


class Displacement:
    """A smooth field d that relates a section to its displaced neighbour: what lies at p is found at p + d(p).

    Positions are (x, y) in px, 0 at the centre of the first pixel.

    Args:
        seed: decides the field.
        size_px: side of the square tile.
        longest_px: upper limit of its length; the longest arrow has half to all of it. 0: no displacement. Up to a
            quarter of the side, so that nothing folds.
    """

    def __init__(self, seed: int, size_px: int, longest_px: float) -> None:
        rng = np.random.default_rng(seed)
        angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.6)
        self._size_px = size_px
        self._shape = _Shape(
            shift=length * np.array([np.cos(angle), np.sin(angle)]),
            turn=rng.uniform(-0.35, 0.35),
            bend_x=Noise(int(rng.integers(2**62)), size_px / 4),
            bend_y=Noise(int(rng.integers(2**62)), size_px / 4),
        )
        self._scale = 1.0
        self._scale = longest_px * rng.uniform(0.5, 1.0) / np.hypot(*self._on_field_points()).max()

    def at(self, x: Coordinates, y: Coordinates) -> tuple[Coordinates, Coordinates]:
        """(dx, dy) in px at positions of any shape in the H&E."""
        shape, middle, corner = self._shape, (self._size_px - 1) / 2, self._size_px / np.sqrt(2)
        dx = shape.shift[0] - shape.turn * (y - middle) / corner + 0.11 * shape.bend_x.sample(x, y)
        dy = shape.shift[1] + shape.turn * (x - middle) / corner + 0.11 * shape.bend_y.sample(x, y)
        return self._scale * dx, self._scale * dy

    def field(self) -> NDArray[np.float16]:
        """(dx, dy) in px at 64 x 64 points, 2 x 64 x 64; the outer points lie on the centres of the corner pixels."""
        return np.stack(self._on_field_points()).astype(np.float16)

    def origins(self) -> tuple[Coordinates, Coordinates]:
        """For each pixel q of the displaced section the position p in the H&E with p + d(p) = q: x and y, H x W each.

        Fixed-point iteration on a coarse lattice, interpolated: true to a hundredth of a px.
        """
        lattice = np.arange(-_INVERSE_BORDER, self._size_px // _INVERSE_PITCH_PX + _INVERSE_BORDER)
        qx, qy = np.meshgrid(lattice * float(_INVERSE_PITCH_PX), lattice * float(_INVERSE_PITCH_PX))
        dx, dy = self.at(qx, qy)
        for _ in range(_INVERSE_STEPS):
            dx, dy = self.at(qx - dx, qy - dy)
        pixels = np.arange(self._size_px, dtype=np.float64)
        splines = (ndimage.spline_filter(part, output=np.float32) for part in (dx, dy))
        back_x, back_y = (
            Lattice(spline, -_INVERSE_BORDER, -_INVERSE_BORDER, _INVERSE_PITCH_PX).grid(pixels, pixels)
            for spline in splines
        )
        return pixels[None, :] - back_x, pixels[:, None] - back_y

    def _on_field_points(self) -> tuple[Coordinates, Coordinates]:
        points = np.linspace(0, self._size_px - 1, FIELD_POINTS)
        return self.at(*np.meshgrid(points, points))
