"""Outlines of cells from GeoJSON, compact in memory, given out for the part of the slide that is looked at."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from restain.errors import InputError, MissingError
from restain.folders import is_file_named

Corners = NDArray[np.float64]
"""N x 2 (x, y)."""

MOST_SHOWN = 4000
"""Outlines in one answer; a browser draws no more of them smoothly."""
MOST_WHOLE_BYTES = 64 * 2**20
"""Largest file that is parsed in one piece; one with a feature on each line, as restain writes it, may be larger."""
MOST_BYTES = 2**31


class Outlines:
    """The outlines of one GeoJSON file; read when they are first asked for. May be asked from several threads."""

    def __init__(self, path: Path, place: Callable[[Corners], Corners]) -> None:
        """Check that there is such a file.

        Args:
            path: GeoJSON of `restain quantify` or of QuPath.
            place: from its coordinates to px of the H&E's first level.

        Raises:
            MissingError: there is no such file.
            InputError: it is no GeoJSON, or too large.
        """
        self._path, self._place = path, place
        self._lock = threading.Lock()
        self._is_read = False
        try:
            if path.exists() and not is_file_named(path):
                raise InputError(f"{path} is not a plain file; GeoJSON of cells is expected")
            size = path.stat().st_size
            with path.open("rb") as file:
                start = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
        except FileNotFoundError:
            raise MissingError(f"{path} does not exist; GeoJSON of cells is expected") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        if start[:1] not in (b"{", b"["):
            raise InputError(f"{path} is not GeoJSON; give a file that restain quantify or QuPath has written")
        if size > MOST_BYTES:
            raise InputError(f"{path} has {size >> 20} MB; expected at most {MOST_BYTES >> 20}; export fewer cells")

    def within(self, box: tuple[float, float, float, float]) -> dict[str, Any]:
        """The outlines that touch a box.

        Args:
            box: left, top, right, bottom in px of the H&E's first level.

        Returns:
            `count` of them, and `outlines`, each with its `ring` and `colour`; none where there are more than
            `MOST_SHOWN`.

        Raises:
            InputError: the file is damaged.
        """
        with self._lock:
            if not self._is_read:
                self._read()
        left, top, right, bottom = box
        x0, y0, x1, y1 = self._boxes.T
        touched = np.flatnonzero((x1 >= left) & (x0 <= right) & (y1 >= top) & (y0 <= bottom))
        if len(touched) > MOST_SHOWN:
            return {"count": len(touched), "outlines": []}
        rings = [self._points[self._starts[index] : self._starts[index + 1]] for index in touched]
        colours = self._colours[touched]
        outlines = [
            {"ring": ring.round(1).tolist(), "colour": colour}
            for ring, colour in zip(rings, colours.tolist(), strict=True)
        ]
        return {"count": len(touched), "outlines": outlines}

    def _read(self) -> None:
        rings: list[NDArray[np.float32]] = []
        colours: list[list[int]] = []
        try:
            for feature in _features(self._path):
                colour = _colour(feature)
                for ring in _outer_rings(feature.get("geometry") or {}):
                    points = np.array([(float(x), float(y)) for x, y, *_ in ring]).reshape(-1, 2)
                    if len(points):
                        rings.append(self._place(points).astype(np.float32))
                        colours.append(colour)
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise InputError(f"{self._path} cannot be read as GeoJSON ({error}); write it again") from error
        self._points = np.concatenate([np.empty((0, 2), np.float32), *rings])
        self._starts = np.cumsum([0, *map(len, rings)])
        bounds = [[*ring.min(axis=0), *ring.max(axis=0)] for ring in rings]
        self._boxes = np.array(bounds, np.float32).reshape(-1, 4)
        self._colours = np.array(colours, np.uint8).reshape(-1, 3)
        self._is_read = True


def _features(path: Path) -> Iterator[dict[str, Any]]:
    """Feature by feature: line by line where each stands on a line of its own."""
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline(4096)
        if first.rstrip().endswith('"features": ['):
            yield from _by_line(file)
            return
    if path.stat().st_size > MOST_WHOLE_BYTES:
        raise InputError(
            f"{path} has more than {MOST_WHOLE_BYTES >> 20} MB, and its features share lines; export the "
            "cells of a region"
        )
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(content, dict):
        content = [content] if "geometry" in content else content["features"]
    yield from content


def _by_line(file: IO[str]) -> Iterator[dict[str, Any]]:
    for line in file:
        if (text := line.strip().rstrip(",")) and text != "]}":
            yield json.loads(text)


def _outer_rings(geometry: dict[str, Any]) -> list[Any]:
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind == "Polygon" and coordinates:
        return [coordinates[0]]
    return [rings[0] for rings in coordinates if rings] if kind == "MultiPolygon" and coordinates else []


def _colour(feature: dict[str, Any]) -> list[int]:
    kind = (feature.get("properties") or {}).get("classification")
    found = kind.get("color") if isinstance(kind, dict) else None
    return [min(255, max(0, int(value))) for value in found[:3]] if isinstance(found, list) and len(found) > 2 else RED


RED = [214, 42, 45]
"""Of outlines without a class."""
