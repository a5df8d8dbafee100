"""Regions of interest that limit staining on a slide."""

from pathlib import Path

import numpy as np
from scipy import ndimage

from restain.errors import InputError
from restain.polygons import Roi, draw_polygon, read_rois
from restain.slides.reader import Slide
from restain.slides.tissue import MASK_MPP, TissueMask


def load_roi(path: Path, slide: Slide) -> Roi:
    """Read the polygons of a GeoJSON file, such as QuPath exports, as one region of interest.

    Args:
        path: polygons in px of the slide's first level.
        slide: the slide.

    Raises:
        MissingError, InputError: as in `read_rois`; or no polygon is on the slide.
    """
    roi = Roi(path.name, [polygon for one in read_rois(path) for polygon in one.polygons])
    if not roi.may_touch((0, 0), slide.size):
        raise InputError(
            f"{path}: none of its polygons is on the slide; expected px of the first level, "
            f"{slide.size[0]} x {slide.size[1]}"
        )
    return roi


def coarse_mask(roi: Roi, slide: Slide) -> TissueMask:
    """A coarse mask of the area to stain: pixels of 8 µm in or near a polygon."""
    step = max(1.0, MASK_MPP / slide.mpp)
    width, height = (max(1, round(side / step)) for side in slide.size)
    steps = slide.size[0] / width, slide.size[1] / height
    mask = np.zeros((height, width), bool)
    for polygon in roi.polygons:
        corners = [ring / steps for ring in polygon]
        low = np.floor(corners[0].min(0)).clip(0, (width, height)).astype(int)
        high = (np.ceil(corners[0].max(0)) + 1).clip(0, (width, height)).astype(int)
        if (high > low).all():
            across, down = (high - low).tolist()
            own = draw_polygon([ring - low for ring in corners], (across, down), with_edge=True)
            mask[low[1] : high[1], low[0] : high[0]] |= own
    return TissueMask(ndimage.binary_dilation(mask, np.ones((3, 3), bool)), steps)
