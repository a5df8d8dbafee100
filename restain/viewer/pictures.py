"""The images of a scene as pyramids of tiles: what the page asks for, from a slide or through a transform."""

import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from restain.image import RGB
from restain.registration.field import Raster
from restain.registration.transform import Transform
from restain.registration.warp import places_on, source_limits, warp
from restain.slides.pyramid import Position, Pyramid
from restain.slides.reader import Slide

Value = TypeVar("Value")

TILE_PX = 512

_COARSEST = 4.0
"""How many px of a level of the slide one px of a tile may be wide, before it is made from finer tiles instead."""
_CACHE_BYTES = 96 * 2**20

GLASS = (242, 242, 242)
"""Clean glass in a bright-field scanner."""


class Picture(Protocol):
    """An image in tiles. May be asked from several threads."""

    pyramid: Pyramid

    def tile(self, position: Position) -> RGB:
        """The pixels of a tile, cut at the right and lower border: H x W x 3."""
        ...


class SlidePicture:
    """A slide at a number of micrometres per pixel."""

    def __init__(self, slide: Slide, mpp: float | None = None) -> None:
        """Show a slide.

        Args:
            slide: the slide.
            mpp: micrometres per pixel of its finest tiles; the slide's own if not given.
        """
        self._slide, self._mpp = slide, mpp or slide.mpp
        self.pyramid = Pyramid(slide.size_at(self._mpp), TILE_PX)
        self._made: Cache[RGB] = Cache(_CACHE_BYTES)

    def tile(self, position: Position) -> RGB:
        """See `Picture`. No call reads more than 2048 px of the slide along a side."""
        return self._made.get(position, lambda: self._make(position), lambda rgb: rgb.nbytes)

    def _make(self, position: Position) -> RGB:
        box = self.pyramid.box(position)
        step = 2**position.level
        scale = self._slide.scale(self._mpp) * step
        finest = [self._slide.size[0] / width for width, _ in self._slide.levels]
        nearest = max(down for down in finest if down <= scale * 1.01 or down == finest[0])
        if scale / nearest <= _COARSEST or position.level == 0:
            return self._slide.read((box.x * scale, box.y * scale), (box.width, box.height), self._mpp * step)
        return halved(position, self.pyramid, self.tile)


class RegisteredPicture:
    """The neighbouring section, drawn as it would lie on the H&E slide."""

    def __init__(self, ihc: Slide, transform: Transform, he: Slide) -> None:
        """Show it in the pixels of the H&E.

        Args:
            ihc: the slide of the neighbouring section.
            transform: from the H&E slide to this one.
            he: the slide whose pixels it is shown in.
        """
        self._ihc, self._transform, self._he = ihc, transform, he
        self.pyramid = Pyramid(he.size, TILE_PX)
        self._made: Cache[RGB] = Cache(_CACHE_BYTES)
        self._coarsest = _COARSEST * max(ihc.size[0] / width for width, _ in ihc.levels)

    def tile(self, position: Position) -> RGB:
        """See `Picture`; glass where the section does not reach."""
        return self._made.get(position, lambda: self._make(position), lambda rgb: rgb.nbytes)

    def _make(self, position: Position) -> RGB:
        box, mpp = self.pyramid.box(position), self._he.mpp * 2**position.level
        here = Raster(box.x * mpp, box.y * mpp, box.width, box.height, mpp)
        places = places_on(self._transform, here)
        there = self._ihc.mpp * self._ihc.scale(mpp * self._transform.scale)
        if there / self._ihc.mpp > self._coarsest and position.level:
            return halved(position, self.pyramid, self.tile)
        left, top, right, bottom = source_limits(places)
        width_um, height_um = (side * self._ihc.mpp for side in self._ihc.size)
        margin = 4 * there
        left, top = max(0.0, left - margin), max(0.0, top - margin)
        right, bottom = min(width_um, right + margin), min(height_um, bottom + margin)
        if right - left < there or bottom - top < there:
            return np.full((box.height, box.width, 3), GLASS, np.uint8)
        size = math.ceil((right - left) / there), math.ceil((bottom - top) / there)
        rgb = self._ihc.read((left / self._ihc.mpp, top / self._ihc.mpp), size, there)
        drawn, covered = warp(rgb.copy(), Raster(left, top, *size, there), places)
        drawn[~covered] = GLASS
        return drawn


def halved(parent: Position, pyramid: Pyramid, tile: Callable[[Position], RGB]) -> RGB:
    """A tile from the four of the finer level, by the mean of each 2 x 2 px."""
    box = pyramid.box(parent)
    rows = [np.concatenate([tile(child) for child in row], axis=1) for row in children(parent, pyramid)]
    whole = np.concatenate(rows)
    whole = np.pad(whole, ((0, whole.shape[0] % 2), (0, whole.shape[1] % 2), (0, 0)), mode="edge")
    return np.asarray(Image.fromarray(whole).reduce(2))[: box.height, : box.width]


def children(parent: Position, pyramid: Pyramid) -> list[list[Position]]:
    """The tiles of the finer level that a tile is made of, row by row."""
    rows, columns = pyramid.grid(parent.level - 1)
    return [
        [
            Position(parent.level - 1, row, column)
            for column in range(2 * parent.column, min(2 * parent.column + 2, columns))
        ]
        for row in range(2 * parent.row, min(2 * parent.row + 2, rows))
    ]


class Cache(Generic[Value]):
    """The values that were asked for last, up to a number of bytes. May be asked from several threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most, self._bytes = most_bytes, 0
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """What is kept under a key; made, and kept, where it is not."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        value = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = value, size(value)
                self._bytes += size(value)
            while self._bytes > self._most and len(self._kept) > 1:
                _, (_, freed) = self._kept.popitem(last=False)
                self._bytes -= freed
        return value


def encode(rgb: RGB, alpha: NDArray[np.uint8] | None = None) -> tuple[bytes, str]:
    """A tile for the browser: JPEG, or lossless WebP where parts of it are not there yet.

    Args:
        rgb: H x W x 3.
        alpha: H x W, 255 where the tile is there; None where it is whole.

    Returns:
        The bytes and their media type.
    """
    encoded = io.BytesIO()
    if alpha is None:
        Image.fromarray(rgb).save(encoded, "JPEG", quality=92, subsampling=0)
        return encoded.getvalue(), "image/jpeg"
    Image.fromarray(np.dstack([rgb, alpha])).save(encoded, "WEBP", lossless=True, quality=0, method=0)
    return encoded.getvalue(), "image/webp"
