"""An endless drawn tissue, of which any window can be drawn without the rest."""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from restain.data.phantom.anatomy import ISLAND_UM, Anatomy, Bounds
from restain.data.phantom.cells import REACH_UM, Population, populate
from restain.data.phantom.noise import Coordinates
from restain.data.phantom.paint import Layers, paint
from restain.stains import Marker

_BLUR_PX = 0.6  # of the microscope
_MARGIN_PX = 3  # what that blur needs around a window
_ROUGHEST_EDGE_UM = 8.0  # tissue reaches no farther over the smooth outline of the survey


class Window(NamedTuple):
    """A rectangle of pixels; the origin of the tissue lies at the upper left corner of pixel (0, 0)."""

    x: int
    y: int
    width: int
    height: int


class Section(NamedTuple):
    """A window of tissue, cut."""

    layers: Layers
    cells: Population
    """The cells whose nucleus is seen and has its centre in the window, in µm from the origin of the tissue."""


class Tissue:
    """Drawn tissue with nests, glands, stroma, lymphocytes and bare glass, without end.

    Windows that overlap agree exactly. Everything has its size in µm, whatever the resolution.

    Args:
        seed: decides everything.
        marker: what the IHC shows: "membrane" (like HER2) or "nuclear" (like Ki67 or ER).
        mpp: µm per pixel.
        coverage: share of the plane that is tissue.
        island_um: half the width of a typical island of tissue, in µm.
        frame_um: tissue ends inside this box (left, top, right, bottom); None: nowhere.
    """

    def __init__(
        self,
        seed: int,
        marker: Marker = "membrane",
        mpp: float = 0.5,
        coverage: float = 0.95,
        island_um: float = ISLAND_UM,
        frame_um: Bounds | None = None,
    ) -> None:
        self.seed, self.marker, self.mpp, self.coverage = seed, marker, mpp, coverage
        self.anatomy = Anatomy(seed, coverage, island_um, frame_um)

    def at(self, mpp: float) -> "Tissue":
        """The same tissue, drawn at other micrometres per pixel."""
        anatomy = self.anatomy
        return Tissue(self.seed, self.marker, mpp, self.coverage, anatomy.island_um, anatomy.frame_um)

    def draw(self, window: Window, depth_um: float = 0.0) -> Section:
        """Cut a section `depth_um` below the plane and draw a window of it, as a microscope sees it."""
        xs = self._centres(window.x, window.width)
        ys = self._centres(window.y, window.height)
        box = (xs[0] - REACH_UM, ys[0] - REACH_UM, xs[-1] + REACH_UM, ys[-1] + REACH_UM)
        survey = self.anatomy.survey(box, depth_um)
        cells = populate(self.seed, survey, box, depth_um)
        if survey.tissue.values.max() < -_ROUGHEST_EDGE_UM:  # most of a slide
            glass = np.zeros((3, window.height, window.width), np.float32)
            return Section(Layers(*glass), cells.chosen(cells.kind < 0))
        layers = paint(self.seed, survey, cells, self.marker, xs, ys, depth_um)
        inside = slice(_MARGIN_PX, -_MARGIN_PX)
        seen = (cells.nucleus > 0) & (survey.tissue.sample(cells.x, cells.y) > 0)
        for place, first, count in ((cells.x, window.x, window.width), (cells.y, window.y, window.height)):
            seen &= (place >= first * self.mpp) & (place < (first + count) * self.mpp)
        blurred = (ndimage.gaussian_filter(layer, _BLUR_PX, radius=_MARGIN_PX)[inside, inside] for layer in layers)
        return Section(Layers(*blurred), cells.chosen(seen))

    def _centres(self, first: int, count: int) -> Coordinates:
        """Coordinates in µm of pixel centres, margins included."""
        return (np.arange(first - _MARGIN_PX, first + count + _MARGIN_PX) + 0.5) * self.mpp
