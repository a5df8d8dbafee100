"""Annotated polygons: read from GeoJSON as QuPath exports it, rasterised to masks, and written."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from restain.errors import InputError, RestainError
from restain.folders import read_text
from restain.image import atomic_path

Ring = NDArray[np.float64]
"""Corners, x and y in px of the whole image, K x 2."""
Polygon = list[Ring]
"""An outline, then its holes."""
GeoJsonRings = list[list[tuple[float, float]]]
"""An outline, then its holes, as GeoJSON has them: the first corner is repeated at the end of each."""

_FARTHEST_PX = 10**8  # a hundred times the side of the largest slides
UNNAMED = "region"
"""The name of a region of interest where the annotation has none."""


@dataclass(frozen=True)
class Roi:
    """A region of interest: all polygons of one name."""

    name: str
    polygons: Sequence[Polygon]

    @cached_property
    def _bounds(self) -> tuple[Ring, Ring]:
        """Least and largest x and y of each polygon, N x 2."""
        return (
            np.array([outline.min(0) for outline, *_ in self.polygons]).reshape(-1, 2),
            np.array([outline.max(0) for outline, *_ in self.polygons]).reshape(-1, 2),
        )

    def may_touch(self, location: tuple[int, int], size: tuple[int, int], scale: float = 1.0) -> bool:
        """Whether the bounding box of any polygon meets a tile; if not, `mask` is empty. Arguments as for `mask`."""
        return bool(len(self._near(location, size, scale)))

    def mask(self, location: tuple[int, int], size: tuple[int, int], scale: float = 1.0) -> NDArray[np.bool_]:
        """Which pixels of a tile lie in the polygons.

        Args:
            location: x and y of the tile.
            size: its width and height in px.
            scale: how many px of the polygons' coordinates one px of the tile is wide.

        Returns:
            H x W.
        """
        found = np.zeros(size[::-1], bool)
        for index in self._near(location, size, scale):
            found |= draw_polygon([ring / scale - np.array(location) for ring in self.polygons[index]], size)
        return found

    def _near(self, location: tuple[int, int], size: tuple[int, int], scale: float) -> NDArray[np.int64]:
        low, high = (bound / scale - np.array(location) for bound in self._bounds)
        return np.flatnonzero((high >= -1).all(1) & (low <= np.array(size) + 1).all(1))


def draw_polygon(polygon: Polygon, size: tuple[int, int], *, with_edge: bool = False) -> NDArray[np.bool_]:
    """Which pixels of an image lie in a polygon, H x W: those whose centres do, so that neighbours share none.

    Args:
        polygon: in px of the image; 0 is the upper left corner of its first pixel.
        size: width and height of the image.
        with_edge: whether pixels that the outline touches count too, those of holes included.
    """
    if not with_edge:
        outline, *holes = (_inside(ring, size) for ring in polygon)
        for hole in holes:
            outline &= ~hole
        return outline
    image = Image.new("1", size)
    draw = ImageDraw.Draw(image)
    for index, ring in enumerate(polygon):
        corners = [tuple(corner) for corner in (ring - 0.5).tolist()]
        draw.polygon(corners, fill=int(index == 0), outline=int(index == 0))
    return np.asarray(image)


def _inside(ring: Ring, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixels have their centres in a ring (even-odd rule), or on its left or upper edge: H x W."""
    found = np.zeros(size[::-1], bool)
    left, top = np.floor(ring.min(0)).clip(0, size).astype(int).tolist()
    right, bottom = np.ceil(ring.max(0)).clip(0, size).astype(int).tolist()
    if right <= left or bottom <= top:
        return found
    start, end = ring - 0.5, np.roll(ring, -1, axis=0) - 0.5  # centres of pixels are whole numbers
    upward = (start[:, 1] > end[:, 1])[:, None]
    start, end = np.where(upward, end, start), np.where(upward, start, end)  # one way, so that neighbours agree
    first, last = (np.ceil(points[:, 1]).clip(top, bottom).astype(int) for points in (start, end))
    counts = last - first
    edge = np.repeat(np.arange(len(ring)), counts)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    (x, y), (dx, dy) = start[edge].T, (end - start)[edge].T
    column = np.ceil(x + (row - y) / dy * dx).clip(left, right).astype(int)
    crossed = np.zeros((bottom - top, right - left + 1), np.uint8)
    np.add.at(crossed, (row - top, column - left), 1)
    found[top:bottom, left:right] = np.cumsum(crossed, axis=1, dtype=np.uint8)[:, :-1] % 2
    return found


def read_rois(path: Path) -> list[Roi]:
    """Read the polygons of a GeoJSON file; those of one name are one region of interest.

    The name is that of the annotation, or of its class. Other geometries, such as points, are ignored.

    Raises:
        MissingError: there is no such file.
        InputError: it is not GeoJSON, or has no polygon or an invalid one.
    """
    found: dict[str, list[Polygon]] = {}
    try:
        for name, rings in _polygons(json.loads(read_text(path, "GeoJSON with polygons")), UNNAMED):
            polygon = [np.array([(float(x), float(y)) for x, y, *_ in ring]).reshape(-1, 2) for ring in rings]
            found.setdefault(name, []).append(polygon)
    except RestainError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as GeoJSON ({error}); export annotations as GeoJSON, for instance in QuPath"
        ) from error
    if not found:
        raise InputError(f"{path} has no polygon; draw at least one and export it as GeoJSON")
    for name, polygons in found.items():
        if any(len(ring) < 3 for polygon in polygons for ring in polygon):
            raise InputError(f"{path}: a ring of '{name}' has fewer than three points; draw it again")
        if not all((np.abs(ring) <= _FARTHEST_PX).all() for polygon in polygons for ring in polygon):  # NaN is not
            raise InputError(f"{path}: '{name}' has places beyond {_FARTHEST_PX:,} px, or that are none; draw it again")
    return [Roi(name, polygons) for name, polygons in found.items()]


class GeoJsonFile:
    """A GeoJSON FeatureCollection written polygon by polygon."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._written = 0

    def add(self, rings: Sequence[Sequence[Sequence[float]]], properties: Mapping[str, Any]) -> None:
        """Write a polygon.

        Args:
            rings: outline and holes; x and y in px of the whole image, the first point repeated at the end of each.
            properties: as QuPath knows them, such as `objectType` and `classification`.
        """
        geometry = {"type": "Polygon", "coordinates": rings}
        feature = {"type": "Feature", "geometry": geometry, "properties": properties}
        self._file.write((",\n" if self._written else "") + json.dumps(feature, ensure_ascii=False))
        self._written += 1


@contextmanager
def geojson_file(path: Path) -> Iterator[GeoJsonFile]:
    """Write polygons to a GeoJSON file, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [\n')
        yield GeoJsonFile(file)
        file.write("\n]}\n")


def _polygons(node: Any, name: str) -> Iterator[tuple[str, list[list[list[float]]]]]:
    """Name and rings of each polygon below a GeoJSON object; QuPath writes a collection or a bare list of features."""
    if node is None:  # a feature without a geometry
        return
    if isinstance(node, list):
        for part in node:
            yield from _polygons(part, name)
        return
    if "geometry" in node:
        yield from _polygons(node["geometry"], _name(node, name))
        return
    parts = next((node[key] for key in ("features", "geometries") if key in node), None)
    if parts is not None:
        yield from _polygons(parts, name)
    elif node["type"] == "Polygon" and node["coordinates"]:
        yield name, node["coordinates"]
    elif node["type"] == "MultiPolygon":
        yield from ((name, rings) for rings in node["coordinates"] if rings)


def _name(feature: Mapping[str, Any], otherwise: str) -> str:
    properties = feature.get("properties") or {}
    return str(properties.get("name") or _class_name(properties.get("classification") or {}) or otherwise)


def _class_name(kind: str | Mapping[str, Any]) -> str:
    """The name of a class; QuPath lists the parts of one such as `Tumor: Positive`, and reads a bare string."""
    if isinstance(kind, str):
        return kind
    return str(kind.get("name") or "") or ": ".join(map(str, kind.get("names") or ()))
