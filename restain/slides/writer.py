"""Writes a slide tile by tile, in any order and in several runs, as a pyramidal OME-TIFF.

`write_slide` suits most callers; `SlideWriter` is for callers that make tiles themselves.
"""

import math
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from restain.errors import OutputError, ShapeError
from restain.image import RGB
from restain.slides.codec import Codec
from restain.slides.ngff import is_ngff, write_ngff
from restain.slides.pyramid import Position, Pyramid
from restain.slides.spool import Spool
from restain.slides.tiff import Description, write_tiff
from restain.workers.threads import ahead

Colour = tuple[int, int, int]

BACKGROUND: Colour = (242, 242, 242)
"""Clean glass in a bright-field scanner."""

THUMBNAIL_PX = 1024
"""Longest side of the thumbnail."""

_TOGETHER = 32
"""Tiles of the pyramid per transaction."""


class SlideWriter:
    """Takes the tiles of the full size; `finish` makes the pyramid and the file.

    Tiles that were put survive SIGKILL: the same writer, opened again, has them. Missing tiles are background and take
        no space. Tiles may be put in any order; encoding may run in any thread, `put` in one.
    """

    def __init__(
        self,
        path: Path,
        pyramid: Pyramid,
        description: Description,
        codec: Codec | None = None,
        *,
        background: Colour = BACKGROUND,
        job: str = "",
    ) -> None:
        """Begin or resume a slide.

        Args:
            path: the result, `*.ome.tif` or `*.ome.zarr`; until it is complete, its tiles are in the folder
                `PATH.spool`.
            pyramid: its shape.
            description: its metadata.
            codec: how tiles are compressed; JPEG in RGB of quality 90 if not given.
            background: colour where no tile is put.
            job: identifies everything that the pixels depend on. Tiles of another job are deleted.

        Raises:
            OutputError: the folder cannot be written, or another process is writing this file.
        """
        self.path, self.pyramid, self.description, self.background = path, pyramid, description, background
        self.codec = codec or Codec()
        """May be changed until `finish`."""
        self.spool = Spool(path, f"{job} {pyramid} {self.codec}")

    def finished(self) -> set[Position]:
        """The tiles of the full size that are already stored."""
        return self.spool.positions(0)

    def encode(self, position: Position, rgb: RGB) -> tuple[Position, bytes]:
        """Encode one tile.

        Args:
            position: of the tile.
            rgb: H x W x 3 uint8; smaller at the right and lower border.

        Raises:
            ShapeError: the size is wrong.
        """
        box = self.pyramid.box(position)
        if rgb.shape != (box.height, box.width, 3) or rgb.dtype != np.uint8:
            raise ShapeError(
                f"tile {position}: expected {box.height} x {box.width} x 3 uint8, got "
                f"{' x '.join(map(str, rgb.shape))} {rgb.dtype}"
            )
        missing = (self.pyramid.tile_px - box.height, self.pyramid.tile_px - box.width)
        if any(missing):
            rgb = np.pad(rgb, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        return position, self.codec.encode(np.ascontiguousarray(rgb))

    def put(self, tiles: Iterable[tuple[Position, bytes]]) -> None:
        """Store encoded tiles, all or none.

        Raises:
            OutputError: for instance a full disk; earlier tiles are kept for a later run.
        """
        self.spool.put(tiles)

    def finish(self, *, threads: int = 2, at_last: Callable[[], None] = lambda: None) -> None:
        """Make the smaller levels, assemble the file, put it in place and remove the spool.

        Each level is made from the decoded tiles of the one before, so the file is the same after one run or several.

        Args:
            threads: threads that make the levels.
            at_last: called when the file is whole, just before it is put in place, for files beside it.

        Raises:
            OutputError: the file cannot be written; the spool is kept, and a later run finishes it.
        """
        with ThreadPoolExecutor(threads) as pool:
            for level in range(1, len(self.pyramid.levels)):
                self._make_level(level, pool, 2 * threads)
        try:
            if is_ngff(self.path):
                self._finish_ngff(at_last)
            else:
                self._finish_tiff(at_last)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}; its tiles are kept in {self.spool.folder}, "
                "free disk space or close the file elsewhere, then run the same command to finish it"
            ) from error
        self.spool.remove()

    def _finish_tiff(self, at_last: Callable[[], None]) -> None:
        temporary = self.spool.folder / "whole.tif"
        with temporary.open("wb") as file:
            write_tiff(
                file,
                self.pyramid,
                self.codec,
                [self.spool.tiles(level) for level in range(len(self.pyramid.levels))],
                self.codec.encode(self._blank(self.pyramid.tile_px)),
                self.description,
                self._thumbnail(),
            )
            file.flush()
            os.fsync(file.fileno())
        at_last()
        temporary.replace(self.path)

    def _finish_ngff(self, at_last: Callable[[], None]) -> None:
        temporary, earlier = self.spool.folder / "whole.zarr", self.spool.folder / "earlier.zarr"
        for folder in (temporary, earlier):
            if folder.exists():
                shutil.rmtree(folder)  # of a run that was killed at this point
        levels = [self.spool.tiles(level) for level in range(len(self.pyramid.levels))]
        write_ngff(temporary, self.pyramid, self.codec, levels, self.background, self.description)
        at_last()
        if self.path.exists():
            self.path.rename(earlier)  # goes with the spool
        temporary.rename(self.path)

    def _make_level(self, level: int, pool: ThreadPoolExecutor, depth: int) -> None:
        """Make the missing tiles of a level from those of the level before."""
        parents = {Position(level, below.row // 2, below.column // 2) for below in self.spool.positions(level - 1)}
        todo = sorted(parents - self.spool.positions(level))
        made: list[tuple[Position, bytes]] = []
        for tile in ahead(pool, self.halved, todo, depth):
            made.append(tile)
            if len(made) == _TOGETHER:
                self.put(made)
                made = []
        self.put(made)

    def halved(self, parent: Position) -> tuple[Position, bytes]:
        """Encode a tile from the four tiles below, by the mean of each 2 x 2 px; missing ones are background."""
        side = self.pyramid.tile_px
        canvas = self._blank(2 * side)
        for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
            below = Position(parent.level - 1, 2 * parent.row + row, 2 * parent.column + column)
            if data := self.spool.get(below):
                place = slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)
                canvas[place] = self.codec.decode(data, (side, side))
        return parent, self.codec.encode(np.asarray(Image.fromarray(canvas).reduce(2)))

    def _thumbnail(self) -> tuple[tuple[int, int], bytes]:
        """The thumbnail, reduced from the smallest level that is at least as large."""
        level = max((n for n, size in enumerate(self.pyramid.levels) if max(size) >= THUMBNAIL_PX), default=0)
        rows, columns = self.pyramid.grid(level)
        side, (width, height) = self.pyramid.tile_px, self.pyramid.levels[level]
        canvas = np.empty((rows * side, columns * side, 3), np.uint8)
        canvas[:] = self.background
        for position, data in self.spool.tiles(level):
            place = slice(position.row * side, (position.row + 1) * side)
            canvas[place, position.column * side : (position.column + 1) * side] = self.codec.decode(data, (side, side))
        image = Image.fromarray(canvas[:height, :width])
        image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        return image.size, self.codec.encode(np.asarray(image))

    def _blank(self, side: int) -> RGB:
        blank = np.empty((side, side, 3), np.uint8)
        blank[:] = self.background
        return blank

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the spool, and delete it if it has no tiles."""
        if kind and self.spool.folder.is_dir() and not self.finished():
            self.spool.remove()
        self.spool.close()


def write_slide(
    path: Path,
    size: tuple[int, int],
    tile: Callable[[int, int, int, int], RGB | None],
    description: Description,
    *,
    codec: Codec | None = None,
    tile_px: int = 512,
    background: Colour = BACKGROUND,
    job: str | None = None,
    threads: int = 2,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Stream a slide of any size from a function into a pyramidal OME-TIFF; never more than a few tiles in memory.

    Args:
        path: the file, `*.ome.tif`; until it is complete, its tiles are in `PATH.spool`.
        size: width and height in px.
        tile: called as `tile(x, y, width, height)`, gives these pixels as height x width x 3 uint8, or None where there
            is background only. It is called once for each tile, in several threads, and must give the same each time.
        description: name, micrometres per pixel and so on.
        codec: how tiles are compressed; JPEG in RGB of quality 90 if not given.
        tile_px: side of a tile in the file, a multiple of 16.
        background: colour where `tile` gives None.
        job: identifies everything that the pixels depend on, so that a killed run can be resumed. Without it, every run
            starts again.
        threads: threads that make and encode tiles.
        on_progress: called with the tiles done and the tiles in all.

    Raises:
        OutputError: the file cannot be written, or another process is writing it.
        InputError: an empty size, or a tile that is no multiple of 16.
    """
    pyramid = Pyramid(size, tile_px)
    with SlideWriter(
        path, pyramid, description, codec, background=background, job=job or os.urandom(8).hex()
    ) as writer:

        def make(position: Position) -> tuple[Position, bytes] | None:
            box = pyramid.box(position)
            rgb = tile(box.x, box.y, box.width, box.height)
            return None if rgb is None else writer.encode(position, rgb)

        finished = writer.finished()
        todo = (position for position in pyramid.positions(0) if position not in finished)
        total, done = math.prod(pyramid.grid(0)), len(finished)
        try:
            with ThreadPoolExecutor(threads) as pool:
                for made in ahead(pool, make, todo, 2 * threads):
                    if made:
                        writer.put([made])
                    done += 1
                    if on_progress:
                        on_progress(done, total)
            writer.finish(threads=threads)
        finally:
            if job is None:
                writer.spool.remove()
