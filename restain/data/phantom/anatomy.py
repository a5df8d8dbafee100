"""The anatomy: edge of the tissue, nests and glands of tumour, lumens, direction of the stroma, lymphocytes.

All of it comes from a few random fields over the endless plane. They change slowly, so they are surveyed on a lattice
of a few µm and interpolated from there.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from restain.data.phantom.noise import Amounts, Coordinates, Lattice, Noise, smoothstep
from restain.randomness import derive_seed

Bounds = tuple[float, float, float, float]
"""Left, top, right and bottom in µm."""

SURVEY_PITCH_UM = 4.0
ISLAND_UM = 170.0
WALL_UM = 19.0
"""Thickness of the epithelium around a lumen, about two cells."""

_FRAME_MARGIN = 0.6  # half-widths of an island between a frame and the tissue in it, on average


@dataclass(frozen=True)
class Survey:
    """The regions of one window at one depth, to be read at any crossing or point in it. Lengths are in µm.

    Signed depths are positive inside.
    """

    tissue: Lattice
    """Depth inside the tissue; negative on bare glass."""
    epithelium: Lattice
    """Depth inside a nest or gland."""
    lumen: Lattice
    """Depth inside the hollow of a gland."""
    cleft: Lattice
    """Width of the gap where a nest has shrunk away from the stroma; negative where there is none."""
    across: Lattice
    """Coordinate across the fibres of the stroma."""
    along: Lattice
    """Coordinate along the fibres."""
    loose: Lattice
    """How loose the stroma is, mean 0, deviation 1."""
    inflammation: Lattice
    """Share of the places for lymphocytes that are taken, 0 to 1."""
    activity: Lattice
    """What makes tumour cells positive and shows in their looks: about 0 (none is) to 1 (all are)."""


class Anatomy:
    """The plan of one endless tissue.

    Args:
        seed: decides everything.
        coverage: share of the plane that is tissue; the rest is bare glass.
        island_um: half the width of a typical island of tissue, in µm.
        frame_um: tissue ends inside this box, with a wavy edge; None: nowhere.
    """

    def __init__(
        self, seed: int, coverage: float, island_um: float = ISLAND_UM, frame_um: Bounds | None = None
    ) -> None:
        def noise(name: str, pitch_um: float, depth_um: float | None = None) -> Noise:
            return Noise(derive_seed(seed, "phantom", name), pitch_um, depth_um)

        plan = np.random.default_rng(derive_seed(seed, "phantom", "plan"))
        self.level = float(plan.uniform(0.05, 0.8))
        self.richness = float(plan.uniform(-0.25, 0.45))
        self.hollowness = float(plan.uniform(-0.6, 1.0))
        self.unrest = float(plan.uniform(-0.7, 0.6))
        self.heading = float(plan.uniform(0, np.pi))
        self.edge_level = NormalDist().inv_cdf(1 - coverage)
        self.warp_x, self.warp_y = noise("warp x", 18, 60), noise("warp y", 18, 60)
        self.island_um, self.frame_um = island_um, frame_um
        self.edge, self.edge_detail = noise("edge", island_um), noise("edge detail", 22, 40)
        self.nests, self.nests_detail = noise("nests", 36, 70), noise("nests detail", 17, 35)
        self.hollows, self.gaps = noise("hollows", 60), noise("gaps", 22, 60)
        self.bend_across, self.bend_along = noise("bend across", 75, 120), noise("bend along", 75, 120)
        self.crimp = noise("crimp", 9, 20)
        self.crowds, self.softness, self.clones = noise("crowds", 30), noise("softness", 45), noise("clones", 45)

    def survey(self, box_um: Bounds, z: float) -> Survey:
        """Map the regions of a box and of what lies up to 12 µm around it, `z` µm below the plane."""
        left, top, right, bottom = box_um
        columns, rows = _lattice_range(left, right), _lattice_range(top, bottom)
        xs, ys = columns * SURVEY_PITCH_UM, rows * SURVEY_PITCH_UM

        def lattice(values: Amounts) -> Lattice:
            return Lattice(values.astype(np.float32)[1:-1, 1:-1], int(columns[1]), int(rows[1]), SURVEY_PITCH_UM)

        x = xs[None, :] + 9.0 * self.warp_x.grid(xs, ys, z)
        y = ys[:, None] + 9.0 * self.warp_y.grid(xs, ys, z)

        ragged = 0.05 * ISLAND_UM / self.island_um  # as many µm, however gently the field slopes
        edge = self.edge.sample(x, y) - self.edge_level + ragged * self.edge_detail.grid(xs, ys, z)
        tissue = _depth(edge, 1.0625 / self.island_um)
        if self.frame_um is not None:
            tissue = np.minimum(tissue, self.depth_in_frame(self.frame_um, xs, ys))
        mass = self.nests.sample(x, y, z) + 0.22 * self.nests_detail.grid(xs, ys, z) + self.richness - 0.1
        epithelium = np.minimum(_depth(mass, 1 / 36), tissue - 6)
        hollowness = self.hollows.grid(xs, ys) + self.hollowness
        lumen = epithelium - WALL_UM - 40 * smoothstep(0.6, -0.8, hollowness)
        cleft = 3.2 * (self.gaps.grid(xs, ys, z) - 0.55) - np.abs(epithelium + 2.5)

        towards = 26 * np.tanh(epithelium / 26)  # stroma flows around nests
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        across = cos * xs[None, :] + sin * ys[:, None] + 30 * self.bend_across.grid(xs, ys, z) - 0.9 * towards
        along = cos * ys[:, None] - sin * xs[None, :] + 30 * self.bend_along.grid(xs, ys, z)
        across = across + 1.3 * self.crimp.grid(xs, ys, z)

        near = np.exp(-np.maximum(-epithelium, 0) / 60)
        crowding = smoothstep(0.3, 2.0, self.crowds.grid(xs, ys) + 0.7 * near + self.unrest)
        return Survey(
            tissue=lattice(tissue),
            epithelium=lattice(epithelium),
            lumen=lattice(lumen),
            cleft=lattice(cleft),
            across=lattice(across),
            along=lattice(along),
            loose=lattice(self.softness.grid(xs, ys)),
            inflammation=lattice(0.03 + 0.85 * crowding),
            activity=lattice(self.level + 0.16 * self.clones.grid(xs, ys)),
        )

    def depth_in_frame(self, frame_um: Bounds, xs: Coordinates, ys: Coordinates) -> Amounts:
        """Depth in µm inside a box whose sides are wavy, at every crossing of `xs` and `ys`."""
        left, top, right, bottom = frame_um
        across, down = np.minimum(xs - left, right - xs), np.minimum(ys - top, bottom - ys)
        depth = np.minimum(across[None, :], down[:, None]).astype(np.float32)
        waves = np.clip(self.edge.grid(xs, ys), -1.5, 1.5)
        return np.asarray(depth + self.island_um * (0.3 * waves - _FRAME_MARGIN), np.float32)


def _lattice_range(low_um: float, high_um: float) -> NDArray[np.int64]:
    """Lattice coordinates that splines between two places, and 12 µm around, need, and one more for slopes."""
    return np.arange(int(np.floor(low_um / SURVEY_PITCH_UM)) - 5, int(np.floor(high_um / SURVEY_PITCH_UM)) + 7)


def _depth(field: Amounts, least_slope: float) -> Amounts:
    """Turn a field that is positive inside into a signed depth in µm, true near the border."""
    down, right = np.gradient(field, SURVEY_PITCH_UM)
    return np.asarray(field / np.maximum(np.hypot(down, right), least_slope), np.float32)
