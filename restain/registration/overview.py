"""An overview of a slide at about 8 µm: its tissue, and the structure that both stains share."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage

from restain.errors import InputError
from restain.image import RGB, to_tensor
from restain.registration.field import Floats, Map, Raster
from restain.registration.ink import glass_of, ink_of
from restain.registration.matching import Structure
from restain.registration.transform import Scan
from restain.registration.warp import places_between
from restain.slides.reader import Slide
from restain.slides.tissue import cleaned, colourful
from restain.stains import HED_UNIT, rgb_to_hed, to_unit

Mask = NDArray[np.bool_]
Weights = NDArray[np.float32]

OVERVIEW_MPP = 8.0
GLASS_WEIGHT = 0.02
"""Weight of a pixel on glass."""
_DAB_HIDES = 0.5
"""Optical density of DAB that halves how much the haematoxylin beneath counts."""
_PALE_COLOUR, _PALE_DARKNESS, _PALE_BLUR_UM = 5.0, 8.0, 12.0
"""Of pale tissue against the glass, in 8-bit levels: difference of the colours, and darkness; blurred by so much. Glass
has up to 2 and 1, the weakest counterstain of the phantom 2 to 17 and 4 to 66."""
_STRIP, _LATTICE_PX = 256, 8
"""Rows whose places on the other slide are in memory together, and the distance between those that are computed."""
_PARTNERED = 0.3
"""Least overlap of a piece of tissue with tissue of the other slide to have a partner."""


@dataclass(frozen=True)
class Overview:
    """One slide, small."""

    scan: Scan
    mpp: float
    rgb: RGB
    tissue: Mask
    """H x W, without what ink hides."""
    ink: Mask
    """Pen marks and black border, H x W."""

    @cached_property
    def worth(self) -> Weights:
        """How much each pixel counts: 1 on tissue, next to nothing on glass, nothing beneath ink; H x W."""
        worth = np.where(self.tissue, 1, GLASS_WEIGHT)
        return np.asarray(np.where(self.ink, 0, worth), np.float32)

    @property
    def box(self) -> Raster:
        """Where its pixels lie on the slide."""
        height, width = self.tissue.shape
        return Raster(0, 0, width, height, self.mpp)

    @property
    def extent_um(self) -> float:
        """Longest side of the rectangle around the tissue."""
        rows, columns = (np.flatnonzero(self.tissue.any(axis=axis)) for axis in (1, 0))
        return float(max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1) * self.mpp

    def structure(self) -> Structure:
        """What both stains show of the tissue."""
        return structure_of(self.rgb, self.box, self.worth)

    def on_tissue(self, points: Floats) -> Mask:
        """Whether places on the slide (µm, N x 2) lie on tissue, N."""
        column, row = np.floor(points / self.mpp).astype(int).T
        height, width = self.tissue.shape
        inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
        return np.asarray(inside & self.tissue[row.clip(0, height - 1), column.clip(0, width - 1)])


def look(slide: Slide, mpp: float = OVERVIEW_MPP) -> Overview:
    """Read a slide at a coarse resolution and find its tissue.

    Raises:
        InputError: there is none, or the file is damaged.
    """
    mpp = max(mpp, slide.mpp)
    rgb = slide.whole(mpp)
    ink = ink_of(rgb, mpp)
    clean = np.where(ink[..., None], np.rint(glass_of(rgb)).astype(np.uint8), rgb)
    tissue = cleaned(colourful(clean, mpp) | pale(clean, mpp), mpp) & ~ink
    if not tissue.any():
        raise InputError(f"{slide.path} shows no tissue at {mpp:g} µm per pixel; check that it is a stained section")
    return Overview(Scan(slide.path.name, slide.size, slide.mpp), mpp_read(slide, mpp), rgb, tissue, ink)


def pale(rgb: RGB, mpp: float) -> Mask:
    """Where weakly stained tissue is, such as the counterstain between positive cells: H x W x 3 to H x W.

    `colourful` leaves it out where it is hardly more colourful than glass can be, or where pen draws the threshold up.
    Here the glass of the slide itself is the measure. Grey dust and shadows are darker, but not coloured.
    """
    relative = rgb / glass_of(rgb).astype(np.float32) * 255
    colour, darkness = (
        ndimage.gaussian_filter(part, _PALE_BLUR_UM / mpp)
        for part in (relative.max(axis=2) - relative.min(axis=2), 255 - relative.mean(axis=2))
    )
    return np.asarray((colour > _PALE_COLOUR) & (darkness > _PALE_DARKNESS))


def mpp_read(slide: Slide, mpp: float) -> float:
    """The micrometres per pixel that reading at `mpp` gives: scales nearly the same are read without resampling."""
    return slide.scale(mpp) * slide.mpp


def structure_of(rgb: RGB, box: Raster, worth: Weights | None = None) -> Structure:
    """Optical density of the haematoxylin, which counts less beneath DAB.

    Args:
        rgb: H x W x 3.
        box: where it lies.
        worth: how much each pixel counts, H x W, 0 to 1, as from `Overview.worth`; None: all fully.
    """
    density = rgb_to_hed(to_unit(to_tensor(rgb)))[0] * HED_UNIT
    weights = 1 / (1 + density[2] / _DAB_HIDES)
    if worth is not None:
        weights = torch.minimum(weights, torch.from_numpy(worth))
    return Structure(density[0], weights, box)


def detail(rgb: RGB) -> float:
    """How strong detail of 1 to 2 px is against that of 4 to 8 px: H x W x 3 to a number, 0 for an even image.

    At 1 µm per pixel 0.6 to 2.9 on tissue in focus; 0.12 to 0.39 where it is blurred by a Gaussian of 2 µm, 0.05 to
    0.14 by one of 3 µm, whatever the stain (BCI, MIST, Aperio's CMU-1 and the phantom).
    """
    grey = rgb.mean(axis=2, dtype=np.float32)
    one, two, four, eight = (ndimage.gaussian_filter(grey, sigma) for sigma in (1, 2, 4, 8))
    coarse = float(np.square(four - eight).mean())
    return float(np.square(one - two).mean()) / coarse if coarse > 0 else 0.0


def shrunk(structure: Structure, factor: int) -> Structure:
    """The same, a whole number of times smaller; what is surer counts more in the means."""
    if factor <= 1:
        return structure
    height, width = structure.values.shape
    padding = (0, -width % factor, 0, -height % factor)
    both = torch.stack([structure.values * structure.weights, structure.weights])[None]
    values, weights = F.avg_pool2d(F.pad(both, padding), factor)[0]
    box = structure.box
    small = Raster(box.x, box.y, weights.shape[1], weights.shape[0], box.mpp * factor)
    return Structure(values / weights.clamp_min(1e-6), weights, small)


@dataclass(frozen=True)
class Shared:
    """What of the tissue both slides show, under a map from one to the other."""

    he: Mask
    """On the overview of the H&E: tissue that lies on tissue of the IHC."""
    without_partner: Mask
    """On the overview of the IHC: pieces of tissue that the H&E does not have, such as control tissue."""
    share: float
    """Of the H&E's tissue, 0 to 1."""
    pieces: int
    """Of tissue on the IHC without a partner."""


def shared_tissue(he: Overview, ihc: Overview, to_ihc: Map, to_he: Map) -> Shared:
    """Match the pieces of tissue of both slides; those of the IHC without a partner are set aside."""
    on_both = _that_meets(he, ihc, to_ihc)
    labels, count = ndimage.label(ihc.tissue)
    partnered = _that_meets(ihc, he, to_he)
    covered = ndimage.mean(partnered, labels, np.arange(1, count + 1))
    alone = np.concatenate([[False], np.asarray(covered) < _PARTNERED])
    return Shared(on_both, alone[labels], float(on_both.sum() / he.tissue.sum()), int(alone.sum()))


def _that_meets(one: Overview, other: Overview, moved: Map) -> Mask:
    """Tissue of one slide that lies on tissue of the other, in strips; the map is interpolated between places."""
    meets = np.zeros_like(one.tissue)
    height, width = meets.shape
    for top in range(0, height, _STRIP):
        tissue = one.tissue[top : top + _STRIP]
        box = Raster(0, top * one.mpp, width, len(tissue), one.mpp)
        places = places_between(moved, box, _LATTICE_PX)[:, tissue]
        meets[top : top + _STRIP][tissue] = other.on_tissue(places.T)
    return meets


def whole_factor(mpp: float, wanted: float) -> int:
    """How many times smaller an image may become to be at most as coarse as wanted."""
    return max(1, math.floor(wanted / mpp + 1e-6))
