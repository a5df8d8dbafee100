"""Pen marks, the black border of a scan, and control tissue on a slide."""

import math
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from restain.data.phantom.noise import Amounts, Coordinates, Noise
from restain.data.phantom.render import ihc_substance
from restain.data.phantom.tissue import Tissue, Window
from restain.image import RGB

CONTROL_STRIP = 0.22
"""Width of the strip of glass for control tissue, as a share of the slide's height."""

_INKS = ((28, 40, 130), (20, 105, 70), (30, 30, 34), (150, 25, 35))
_INK_COVERS = 0.85
_PEN_UM = (60.0, 600.0)  # width of a line: a sixtieth of the slide, within these
_BLACK = 6
_EDGE = (0.015, 0.05)  # width of a black border as a share of the slide


class Marks:
    """Pen marks and a black border, drawn over a slide.

    Args:
        seed: decides where they are.
        size_um: width and height of the slide.
        pen: whether a pen was used: a loop around a part of the slide and a stroke beside it.
        black_edge: whether two sides of the scan are black.
    """

    def __init__(self, seed: int, size_um: tuple[float, float], *, pen: bool = False, black_edge: bool = False) -> None:
        rng = np.random.default_rng(seed)
        width, height = size_um
        middle = rng.uniform(0.3, 0.7, 2) * size_um
        angles = np.linspace(0, 2.1 * np.pi, 49) + rng.uniform(0, 2 * np.pi)
        reach = rng.uniform(0.15, 0.3, 2) * size_um * (1 + 0.03 * rng.uniform(-1, 1, (49, 1)))
        loop = middle + reach * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        stroke = rng.uniform(0.05, 0.95, (4, 2)) * (0.25 * width, height)
        self._lines = [loop, stroke] if pen else []
        self._ink = np.array(_INKS[rng.integers(len(_INKS))], np.float32)
        self._pen_um = float(np.clip(max(size_um) / 60, *_PEN_UM)) * rng.uniform(0.7, 1.3)
        low, high = _EDGE
        self._black_um = tuple(rng.uniform(low, high, 2) * size_um) if black_edge else (0.0, 0.0)
        self._size_um, self._right, self._bottom = size_um, *rng.integers(0, 2, 2)

    def on(
        self, rgb: RGB | None, glass: tuple[int, int, int], place: tuple[int, int, int, int], mpp: float
    ) -> RGB | None:
        """Draw them over a window, given as H x W x 3 or None for bare glass; None again where nothing is drawn."""
        x, y, width, height = place
        xs, ys = (np.arange(x, x + width) + 0.5) * mpp, (np.arange(y, y + height) + 0.5) * mpp
        black = self._black(xs, ys)
        ink = self._ink_cover(xs, ys)
        if ink is None and not black.any():
            return rgb
        levels = np.full((height, width, 3), glass, np.float32) if rgb is None else rgb.astype(np.float32)
        if ink is not None:
            levels += ink[..., None] * (levels * self._ink / 255 + 0.3 * self._ink - levels)
        levels[black] = _BLACK
        return np.clip(np.rint(levels), 0, 255).astype(np.uint8)

    def _black(self, xs: Coordinates, ys: Coordinates) -> NDArray[np.bool_]:
        (across, down), (width, height) = self._black_um, self._size_um
        columns = (width - xs if self._right else xs) < across
        rows = (height - ys if self._bottom else ys) < down
        return np.asarray(columns[None, :] | rows[:, None])

    def _ink_cover(self, xs: Coordinates, ys: Coordinates) -> Amounts | None:
        """How much of the light the ink takes, H x W, or None where there is no ink."""
        near = self._pen_um
        cover: Amounts | None = None
        for line in self._lines:
            for start, end in pairwise(line):
                low, high = np.minimum(start, end) - near, np.maximum(start, end) + near
                if high[0] < xs[0] or low[0] > xs[-1] or high[1] < ys[0] or low[1] > ys[-1]:
                    continue
                along = end - start
                dx, dy = (xs - start[0])[None, :], (ys - start[1])[:, None]
                t = np.clip((dx * along[0] + dy * along[1]) / max(float(along @ along), 1e-9), 0, 1)
                distance = np.hypot(dx - t * along[0], dy - t * along[1])
                part = (_INK_COVERS * np.clip((near / 2 - distance) / (0.1 * near), 0, 1)).astype(np.float32)
                cover = part if cover is None else np.maximum(cover, part)
        return cover


def control_piece(
    tissue: Tissue, strip_um: tuple[float, float, float, float], place: tuple[int, int, int, int], mpp: float
) -> Amounts | None:
    """What is to be stained of the control tissue in a window of the IHC slide, 2 x H x W; None where there is none.

    Args:
        tissue: what the piece is cut from.
        strip_um: the strip of the slide that it lies in: left, top, width, height.
        place: the window.
        mpp: µm per pixel of the slide.
    """
    left, top, across, down = strip_um
    x, y, width, height = place
    xs, ys = (np.arange(x, x + width) + 0.5) * mpp, (np.arange(y, y + height) + 0.5) * mpp
    dx, dy = (xs - left - across / 2) / (0.36 * across), (ys - top - down * 0.3) / (0.2 * down)
    if min(abs(dx).min(), abs(dy).min()) > 1.3 or math.hypot(abs(dx).min(), abs(dy).min()) > 1.3:
        return None
    waves = Noise(tissue.seed, 0.25 * across).grid(xs, ys)
    inside = dx[None, :] ** 2 + dy[:, None] ** 2 + 0.15 * waves < 1
    if not inside.any():
        return None
    return np.asarray(ihc_substance(tissue.draw(Window(x, y, width, height)).layers) * inside, np.float32)
