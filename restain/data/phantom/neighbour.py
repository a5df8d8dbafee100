"""The neighbouring section on a slide of its own: turned, mirrored, scaled and bent by a transform that is known.

The transform takes places on the slide of the H&E to places on that of the IHC, both in µm from the left upper corner:
first a smooth bend, then a turn with whatever else is linear. `he_to_ihc` and `ihc_to_he` are the truth.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from restain.data.phantom.marks import CONTROL_STRIP, Marks, control_piece
from restain.data.phantom.noise import Amounts, Noise
from restain.data.phantom.render import camera_noise, draw_staining, ihc_substance, photograph
from restain.data.phantom.slide import PhantomSlide, levels_of_glass
from restain.data.phantom.tissue import Tissue, Window
from restain.errors import ConfigError
from restain.image import RGB
from restain.randomness import derive_seed

Points = NDArray[np.float64]
"""Places in µm, N x 2 (x, y)."""

_LATTICE_UM = 16.0  # of the H&E, on which the inverse of the bend is computed
_BEND_PITCH_UM = (400.0, 2500.0)  # a sixth of the slide, within these
_STEEPEST_BEND = 0.2  # share of the pitch that the bend may be long; from 0.5 on it could fold
_INVERSE_STEPS = 20
_PLAY = 0.02  # of the side: how far beside the middle of its slide the section may lie
_DEEP_UM = 15.0  # landmarks lie at least so deep in tissue
_LANDMARK_TRIES = 12


@dataclass(frozen=True)
class NeighbourSettings:
    """Settings of the neighbouring section and its slide."""

    mpp: float | None = None
    """µm per pixel as its file says; None: as the H&E's."""
    angle: float = 4.0
    """By how many degrees the section is turned clockwise, as seen on a screen."""
    mirror: bool = False
    """Whether it was laid on the slide with its other side up."""
    scale: float = 1.0
    """How many times larger tissue is by the µm of its file, as where a file is wrong about them; 0.25 to 4."""
    bend_um: float = 40.0
    """Longest shift of the smooth bend, about, in µm of the H&E."""
    depth_um: float = 4.0
    """Distance of the two sections, in µm."""
    control: bool = False
    """Whether a piece of control tissue lies beside it, which the H&E slide does not have."""
    pen: bool = False
    """Whether both slides bear marks of a pen."""
    black_edge: bool = False
    """Whether the scan of the IHC has a black border, where the scanner saw nothing."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0.25 <= self.scale <= 4:
            raise ConfigError(f"scale {self.scale:g}: expected 0.25 to 4")
        if self.bend_um < 0:
            raise ConfigError(f"bend {self.bend_um:g} µm: expected 0 or more")
        if not 0 <= self.depth_um <= 100:
            raise ConfigError(f"depth {self.depth_um:g} µm: expected 0 to 100")


class PhantomNeighbour:
    """A neighbouring section of a drawn slide, as IHC on a slide of its own.

    Windows that overlap agree; they may be drawn in several threads.

    Args:
        slide: the slide with the H&E; framed, or tissue that it does not show appears here.
        settings: how the section lies.

    Raises:
        ConfigError: the resolution is out of range, or the bend would fold.
    """

    def __init__(self, slide: PhantomSlide, settings: NeighbourSettings | None = None) -> None:
        self.slide, self.settings = slide, settings or NeighbourSettings()
        wanted = self.settings
        self.mpp = wanted.mpp or slide.tissue.mpp
        """µm per pixel as the file will say."""
        true_mpp = self.mpp / wanted.scale
        if not 0.1 <= true_mpp <= 2:
            raise ConfigError(
                f"mpp {self.mpp:g} at scale {wanted.scale:g}: a pixel would show {true_mpp:g} µm of tissue; expected "
                "0.1 to 2"
            )
        side_um = slide.size_px * slide.tissue.mpp
        self.bend_pitch_um = pitch_um = float(np.clip(side_um / 6, *_BEND_PITCH_UM))
        """Distance over which the bend changes."""
        if wanted.bend_um > _STEEPEST_BEND * pitch_um:
            most = _STEEPEST_BEND * pitch_um
            raise ConfigError(f"bend {wanted.bend_um:g} µm: at most {most:.0f} µm on this slide, or tissue would fold")
        key = derive_seed(slide.seed, "phantom", "neighbour")
        self._bend = tuple(Noise(derive_seed(key, axis), pitch_um) for axis in "xy")
        rng = np.random.default_rng(key)
        turn = math.radians(wanted.angle)
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        linear = wanted.scale * rotation @ np.diag([-1.0 if wanted.mirror else 1.0, 1.0])
        extent = np.abs(linear) @ np.full(2, side_um)
        strip = CONTROL_STRIP * extent[1] if wanted.control else 0.0
        room = extent + np.array([strip, 0.0])
        middle = extent / 2 + np.array([strip, 0.0]) + rng.uniform(-1, 1, 2) * _PLAY * extent
        self.affine: NDArray[np.float64] = np.column_stack([linear, middle - linear @ np.full(2, side_um / 2)])
        """The linear part and the shift, 2 x 3, in µm: ihc = linear @ (he + bend(he)) + shift."""
        width, height = (math.ceil(length / self.mpp) for length in room)
        self.size = width, height
        """Width and height in px."""
        self._tissue = slide.tissue.at(true_mpp)
        self._origin_um = np.array(slide.corner) * slide.tissue.mpp
        self._control = Tissue(derive_seed(key, "control"), slide.tissue.marker, true_mpp) if wanted.control else None
        self._control_box = (0.0, 0.0, strip, float(extent[1]))
        own = draw_staining(np.random.default_rng(derive_seed(key, "laboratory")), "ihc")
        self._staining = own if slide.laboratory is None else slide.ihc_staining
        self._grain = derive_seed(key, "grain")
        size_um = width * self.mpp, height * self.mpp
        self.he_marks = Marks(derive_seed(key, "he marks"), (side_um, side_um), pen=wanted.pen)
        """What lies on the slide of the H&E besides tissue."""
        self.marks = Marks(derive_seed(key, "marks"), size_um, pen=wanted.pen, black_edge=wanted.black_edge)
        """What lies on the slide of the IHC besides tissue."""

    @property
    def glass(self) -> tuple[int, int, int]:
        """Colour of the glass."""
        return levels_of_glass(self._staining)

    def bend(self, places: Points) -> Points:
        """The smooth part of the transform at places on the H&E slide, in µm, N x 2."""
        x, y = (places + self._origin_um).T
        shifts = [noise.sample(x, y).astype(np.float64) for noise in self._bend]
        return self.settings.bend_um / 2.5 * np.stack(shifts, axis=1)  # few values of a noise lie beyond 2.5

    def he_to_ihc(self, places: Points) -> Points:
        """Map positions on the H&E slide to the IHC slide; µm, N x 2."""
        return (places + self.bend(places)) @ self.affine[:, :2].T + self.affine[:, 2]

    def ihc_to_he(self, places: Points) -> Points:
        """Where the tissue at places on the IHC slide lies on the H&E slide; µm, N x 2. By fixed-point iteration."""
        unbent = (places - self.affine[:, 2]) @ np.linalg.inv(self.affine[:, :2]).T
        found = unbent - self.bend(unbent)
        for _ in range(_INVERSE_STEPS):
            found = unbent - self.bend(found)
        return found

    def ihc(self, x: int, y: int, width: int, height: int) -> RGB | None:
        """The neighbouring section in a window of its slide, height x width x 3, or None where there is glass only."""
        substance = self._substance(x, y, width, height)
        rgb: RGB | None = None
        if substance.any():
            grain = camera_noise(self._grain, np.arange(x, x + width), np.arange(y, y + height))
            rgb = photograph(substance, self._staining, grain)
        return self.marks.on(rgb, self.glass, (x, y, width, height), self.mpp)

    def he(self, x: int, y: int, width: int, height: int) -> RGB | None:
        """The H&E of its neighbour with whatever marks it bears, as `PhantomSlide.he`."""
        rgb = self.slide.he(x, y, width, height)
        return self.he_marks.on(rgb, self.slide.he_glass, (x, y, width, height), self.slide.tissue.mpp)

    def landmarks(self, count: int) -> tuple[Points, Points]:
        """Places in tissue that both sections show, spread over it: on the H&E slide and on the IHC slide, in µm.

        Fewer than `count` where there is too little tissue.
        """
        rng = np.random.default_rng(derive_seed(self.slide.seed, "phantom", "landmarks"))
        side_um = self.slide.size_px * self.slide.tissue.mpp
        places = rng.uniform(0.02, 0.98, (_LANDMARK_TRIES * count, 2)) * side_um
        anatomy = self.slide.tissue.anatomy
        edge = anatomy.edge.sample(*(places + self._origin_um).T)
        places = places[edge > anatomy.edge_level]  # roughly in tissue; what follows is slow
        chosen: list[NDArray[np.float64]] = []
        apart_um = 0.4 * side_um / math.sqrt(count)
        for place in places:
            if len(chosen) == count:
                break
            if all(math.dist(place, other) >= apart_um for other in chosen) and self._is_deep(place):
                chosen.append(place)
        he = np.array(chosen).reshape(-1, 2)
        return he, self.he_to_ihc(he)

    def _is_deep(self, place: NDArray[np.float64]) -> bool:
        x, y = place + self._origin_um
        survey = self.slide.tissue.anatomy.survey((x, y, x + 1, y + 1), 0.0)
        return bool(survey.tissue.sample(np.array([x]), np.array([y]))[0] > _DEEP_UM)

    def _substance(self, x: int, y: int, width: int, height: int) -> Amounts:
        """What is to be stained in a window, 2 x H x W."""
        he_x, he_y = self._origins(x, y, width, height)
        tissue = self._tissue
        columns, rows = (
            (um + start) / tissue.mpp - 0.5 for um, start in zip((he_x, he_y), self._origin_um, strict=True)
        )
        left, top = math.floor(columns.min()), math.floor(rows.min())
        window = Window(left, top, math.ceil(columns.max()) - left + 1, math.ceil(rows.max()) - top + 1)
        layers = tissue.draw(window, self.settings.depth_um).layers
        if any(layer.any() for layer in layers):
            at = np.stack([rows - top, columns - left])
            substance = np.stack(
                [ndimage.map_coordinates(part, at, order=1, output=np.float32) for part in ihc_substance(layers)]
            )
        else:
            substance = np.zeros((2, height, width), np.float32)
        if self._control is not None:
            piece = control_piece(self._control, self._control_box, (x, y, width, height), self.mpp)
            if piece is not None:
                substance = np.maximum(substance, piece)
        return substance

    def _origins(self, x: int, y: int, width: int, height: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """For each pixel of a window where its tissue lies on the H&E slide: x and y in µm, H x W each.

        Interpolated on a lattice that all windows share: true to a twentieth of a µm.
        """
        step = max(1, round(_LATTICE_UM * self.settings.scale / self.mpp))
        columns = np.arange(x // step, (x + width - 1) // step + 2)
        rows = np.arange(y // step, (y + height - 1) // step + 2)
        grid_x, grid_y = np.meshgrid((columns * step + 0.5) * self.mpp, (rows * step + 0.5) * self.mpp)
        he = self.ihc_to_he(np.stack([grid_x.ravel(), grid_y.ravel()], axis=1))
        along_x = np.arange(x, x + width) / step - columns[0]
        along_y = np.arange(y, y + height) / step - rows[0]
        return tuple(_bilinear(part.reshape(grid_x.shape), along_x, along_y) for part in he.T)  # type: ignore[return-value]  # two


def _bilinear(values: NDArray[np.float64], xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate at every crossing of fractional columns and rows: len(ys) x len(xs)."""
    column, row = np.floor(xs).astype(int), np.floor(ys).astype(int)
    right, down = xs - column, (ys - row)[:, None]
    across = values[:, column] * (1 - right) + values[:, column + 1] * right
    return np.asarray(across[row] * (1 - down) + across[row + 1] * down)
