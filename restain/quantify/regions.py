"""Regions that somebody has drawn: polygons of a GeoJSON file, as QuPath exports its annotations."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from restain.errors import InputError, MissingError

Ring = NDArray[np.float64]

WHOLE = "all"
"""What the tables call the whole image; no region may."""


@dataclass(frozen=True)
class Region:
    """A named area of an image."""

    name: str
    polygons: list[list[Ring]]
    """Each an outer ring and its holes; x and y in px of the whole image, K x 2."""

    @cached_property
    def _bounds(self) -> tuple[Ring, Ring]:
        """The least and the largest x and y."""
        corners = np.concatenate([outer for outer, *_ in self.polygons])
        return corners.min(0), corners.max(0)

    def may_touch(self, location: tuple[int, int], size: tuple[int, int], scale: float = 1.0) -> bool:
        """Whether the box around the region meets a tile; where not, `mask` is empty. Arguments as there."""
        low, high = (bound / scale - np.array(location) for bound in self._bounds)
        return bool((high >= -1).all() and (low <= np.array(size) + 1).all())

    def mask(self, location: tuple[int, int], size: tuple[int, int], scale: float = 1.0) -> NDArray[np.bool_]:
        """Which pixels of a tile lie in the region.

        Args:
            location: x and y of the tile.
            size: its width and height in px.
            scale: how many px of the region's coordinates one px of the tile is wide.

        Returns:
            H x W.
        """
        found = np.zeros(size[::-1], bool)
        for outer, *holes in self.polygons:
            drawing = Image.new("1", size)
            draw = ImageDraw.Draw(drawing)
            for ring, fill in ((outer, 1), *((hole, 0) for hole in holes)):
                corners = ring / scale - np.array(location) - 0.5
                draw.polygon([tuple(corner) for corner in corners.tolist()], fill=fill)
            found |= np.asarray(drawing)
        return found


def load_regions(path: Path) -> list[Region]:
    """Read the polygons of a GeoJSON file; those of one name are one region.

    The name is that of the annotation, or of its class.

    Raises:
        MissingError: there is no such file.
        InputError: it is no GeoJSON, holds no polygons or broken ones, or a region has the name of the whole image.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        features = content["features"] if isinstance(content, dict) and "features" in content else content
        found: dict[str, list[list[Ring]]] = {}
        for feature in features if isinstance(features, list) else [features]:
            for polygon in _polygons(feature["geometry"]):
                found.setdefault(_name(feature), []).append(polygon)
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist; a GeoJSON file of regions is expected") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} cannot be read as GeoJSON ({error}); export the annotations again") from error
    if not found:
        raise InputError(f"{path} holds no polygons; draw at least one region and export it as GeoJSON")
    if WHOLE in found:
        raise InputError(f"{path}: a region is named '{WHOLE}', as the tables name the whole image; rename it")
    for name, polygons in found.items():
        if any(len(ring) < 3 for rings in polygons for ring in rings):
            raise InputError(f"{path}: region '{name}' has a ring of fewer than three points; draw it again")
    return [Region(name, polygons) for name, polygons in found.items()]


def _polygons(geometry: Mapping[str, Any] | None) -> Iterator[list[Ring]]:
    """The polygons of a geometry, each with at least an outer ring; points and lines have none."""
    if geometry is None:
        return
    kind = geometry["type"]
    if kind == "GeometryCollection":
        for part in geometry["geometries"]:
            yield from _polygons(part)
    elif kind in ("Polygon", "MultiPolygon"):
        for rings in [geometry["coordinates"]] if kind == "Polygon" else geometry["coordinates"]:
            if rings:
                yield [np.array([(x, y) for x, y, *_ in ring], np.float64) for ring in rings]


def _name(feature: Mapping[str, Any]) -> str:
    properties = feature.get("properties") or {}
    return str(properties.get("name") or (properties.get("classification") or {}).get("name") or "region")
