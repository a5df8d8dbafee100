"""Writes the results: cells as GeoJSON for QuPath, an overlay picture, rows of CSV."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from restain.image import RGB, atomic_path
from restain.polygons import GeoJsonFile
from restain.quantify.cells import CLASSES
from restain.quantify.tiles import TileResult

COLOURS = ((36, 92, 220), (250, 205, 30), (245, 130, 20), (214, 30, 45))
"""Of the classes, RGB."""

OVERLAY_PX = 4096
"""Longest side of an overlay picture; larger images are scaled down."""


def add_cells(file: GeoJsonFile, tile: TileResult, scale: float) -> None:
    """Write the cells of a tile to a GeoJSON file.

    Args:
        file: from `restain.polygons.geojson_file`.
        tile: the measured tile.
        scale: px of the whole image, the unit of the coordinates, per measured px.
    """
    cells, corner = tile.cells, np.array(tile.location)
    for index, outline in enumerate(tile.outlines()):
        intensity = int(cells.intensity[index])
        properties = {
            "objectType": "detection",
            "classification": {"name": CLASSES[intensity], "color": list(COLOURS[intensity])},
            "measurements": {
                "Nucleus: area µm²": round(float(cells.area_um2[index]), 2),
                "Nucleus: haematoxylin OD": round(float(cells.haematoxylin[index]), 4),
                "Nucleus: DAB OD": round(float(cells.dab[index]), 4),
                "Membrane: completeness": round(float(cells.completeness[index]), 4),
                "Membrane: DAB OD": round(float(cells.membrane_dab[index]), 4),
            },
        }
        file.add([np.round((outline + corner) * scale, 1).tolist()], properties)


def draw_tile(tile: TileResult) -> RGB:
    """The tile with its nuclei outlined in the colour of their class."""
    picture = tile.rgb.copy()
    labels = tile.labels
    edge = (labels > 0) & (labels != ndimage.grey_erosion(labels, 3))
    edge |= (labels > 0) & (labels != ndimage.grey_dilation(labels, 3))
    colours = np.zeros((int(tile.window.max()) + 1, 3), np.uint8)
    colours[tile.seen.label] = np.array(COLOURS, np.uint8)[tile.seen.intensity]
    picture[edge] = colours[labels[edge]]
    return picture


class Overlay:
    """The overlay of a whole image, at most `OVERLAY_PX` wide and high, assembled tile by tile."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._shrink = max(1.0, max(size) / OVERLAY_PX)
        width, height = (max(1, round(length / self._shrink)) for length in size)
        self.picture: NDArray[np.uint8] = np.full((height, width, 3), 255, np.uint8)
        """H x W x 3."""

    def add(self, tile: TileResult) -> None:
        """Draw a tile at its position."""
        drawn = draw_tile(tile)
        x, y = tile.location
        height, width = drawn.shape[:2]
        left, right, top, bottom = (round(place / self._shrink) for place in (x, x + width, y, y + height))
        place = self.picture[top:bottom, left:right]
        if place.size:
            small = Image.fromarray(drawn).resize((place.shape[1], place.shape[0]), Image.Resampling.BOX)
            place[...] = np.asarray(small)


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the same columns; numbers have six digits, undefined values are empty.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows[0])
        writer.writerows(_cells(row.values()) for row in rows)


def _cells(values: Iterable[object]) -> list[object]:
    return [f"{value:.6g}" if isinstance(value, float) else "" if value is None else value for value in values]
