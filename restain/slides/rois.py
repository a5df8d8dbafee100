"""Regions of a slide that someone drew, in which alone it is stained."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from restain.errors import InputError, MissingError
from restain.quantify.regions import Region
from restain.slides.reader import Slide
from restain.slides.tissue import MASK_MPP, TissueMask

Corners = NDArray[np.float64]
Polygon = list[Corners]
"""An outline, then its holes: x and y in px of the slide's first level, K x 2 each."""


@dataclass(frozen=True)
class Drawn:
    """Polygons on a slide."""

    polygons: list[Polygon]

    @cached_property
    def _bounds(self) -> tuple[Corners, Corners]:
        """Least and largest x and y of each polygon, N x 2."""
        return (
            np.array([outline.min(0) for outline, *_ in self.polygons]).reshape(-1, 2),
            np.array([outline.max(0) for outline, *_ in self.polygons]).reshape(-1, 2),
        )

    def may_touch(self, size: tuple[int, int]) -> bool:
        """Whether the box around any polygon meets a slide of this width and height."""
        low, high = self._bounds
        return bool(((high > 0).all(1) & (low < np.array(size)).all(1)).any())

    def mask(self, location: tuple[int, int], size: tuple[int, int], scale: float) -> NDArray[np.bool_]:
        """Which pixels of a box lie in the polygons, H x W.

        Args:
            location: x and y of the box.
            size: its width and height in px.
            scale: how many px of the first level one px of the box is wide.
        """
        low, high = (bound / scale - np.array(location) for bound in self._bounds)
        near = np.flatnonzero((high >= -1).all(1) & (low <= np.array(size) + 1).all(1))
        return Region("", [self.polygons[index] for index in near]).mask(location, size, scale)

    def coarse(self, slide: Slide) -> TissueMask:
        """Where on the slide there is something to stain: pixels of 8 µm near a polygon, and those inside."""
        step = max(1.0, MASK_MPP / slide.mpp)
        width, height = (max(1, round(side / step)) for side in slide.size)
        steps = slide.size[0] / width, slide.size[1] / height
        mask = np.zeros((height, width), bool)
        for rings in self.polygons:
            corners = [ring / steps for ring in rings]
            low = np.floor(corners[0].min(0)).clip(0, (width, height)).astype(int)
            high = (np.ceil(corners[0].max(0)) + 1).clip(0, (width, height)).astype(int)
            if (high > low).all():
                own = Image.new("1", tuple((high - low).tolist()))
                for index, ring in enumerate(corners):
                    points = [tuple(corner) for corner in (ring - low - 0.5).tolist()]
                    ImageDraw.Draw(own).polygon(points, fill=int(index == 0), outline=int(index == 0))
                mask[low[1] : high[1], low[0] : high[0]] |= np.asarray(own)
        return TissueMask(ndimage.binary_dilation(mask, np.ones((3, 3), bool)), steps)


def load_rois(path: Path, slide: Slide) -> Drawn:
    """Read regions from GeoJSON such as QuPath exports.

    Args:
        path: polygons in px of the slide's first level.
        slide: on which they lie.

    Raises:
        MissingError: there is no such file.
        InputError: it is no GeoJSON, has no polygon, or none of them lies on the slide.
    """
    try:
        polygons = [
            [np.array([(float(x), float(y)) for x, y, *_ in ring]) for ring in rings]
            for rings in _polygons(json.loads(path.read_text(encoding="utf-8")))
            if rings
        ]
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist; GeoJSON with polygons is expected") from error
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(
            f"{path} is not GeoJSON ({error}); export annotations as GeoJSON, for instance in QuPath"
        ) from error
    if any(len(ring) < 3 for rings in polygons for ring in rings):
        raise InputError(f"{path}: a polygon has a ring of fewer than three points; draw it again")
    drawn = Drawn(polygons)
    if not drawn.may_touch(slide.size):
        what = "none of its polygons lies on the slide" if polygons else "it has no polygon"
        raise InputError(f"{path}: {what}; px of the first level are expected, {slide.size[0]} x {slide.size[1]}")
    return drawn


def _polygons(node: Any) -> Iterator[list[list[list[float]]]]:
    """All polygons below a GeoJSON object; QuPath writes a collection or a bare list of features."""
    if node is None:  # a feature without a geometry
        return
    if isinstance(node, list):
        for part in node:
            yield from _polygons(part)
    elif node["type"] == "FeatureCollection":
        yield from _polygons(node["features"])
    elif node["type"] == "Feature":
        yield from _polygons(node["geometry"])
    elif node["type"] == "GeometryCollection":
        yield from _polygons(node["geometries"])
    elif node["type"] == "MultiPolygon":
        yield from node["coordinates"]
    elif node["type"] == "Polygon":
        yield node["coordinates"]
