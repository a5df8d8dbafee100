"""Stains a slide tile by tile in the order in which somebody looks, into the spool that `stain-slides` resumes.

One thread runs the network. What a window does not show any longer is not stained; what was stained is kept. The pixels
are those of the finished file, as the spool's tiles are copied into it.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from restain.errors import RestainError
from restain.image import RGB
from restain.slides.pyramid import Position, Pyramid
from restain.slides.reader import Slide
from restain.slides.spooled import SpooledSource
from restain.slides.tiling import Box
from restain.staining.model import Model
from restain.staining.plan import plan_of
from restain.staining.settings import SlideSettings
from restain.staining.sitting import Sitting
from restain.viewer.pictures import Cache, children

Publish = Callable[[Mapping[str, Any]], None]
"""Takes news for the page: phase, tiles that are finished, how many of how many."""

StainedTile = tuple[RGB, NDArray[np.uint8]]
"""H x W x 3 pixels, and H x W: 255 where they are there, 0 where they are not yet."""

_CACHE_BYTES = 96 * 2**20
_MOST_WINDOWS = 64


class LiveStain:
    """The virtual stain of one slide by one model, as far as somebody has looked at it."""

    def __init__(self, model: Model, slide: Slide, out: Path, settings: SlideSettings, publish: Publish) -> None:
        """Prepare to stain; `start` begins.

        Args:
            model: what stains.
            slide: what is stained; it must stay open.
            out: the result that the tiles are for, `*.ome.tif`; its spool is beside it.
            settings: how; those of the command that is to finish the result.
            publish: told what happens, from the thread that stains.

        Raises:
            InputError, MissingError: as in `plan_of`.
        """
        self._model, self._slide, self._out, self._settings, self._publish = model, slide, out, settings, publish
        everything = plan_of(model, slide, replace(settings, tissue_mask=False))  # tissue is looked for later
        self.pyramid: Pyramid = everything.pyramid
        self.mpp = everything.mpp
        self.phase, self.message = "waiting", ""
        self._sitting: Sitting
        self._work: dict[Position, int] = {}
        self._missing: list[dict[tuple[int, int], int]] = []  # per level and tile: tiles of the full size to be stained
        self._finished: set[Position] = set()
        self._partial: Cache[StainedTile] = Cache(_CACHE_BYTES)
        self._wanted: dict[str, list[Position]] = {}
        self._asked: list[Position] = []  # for figures; before what is looked at
        self._news = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"stain {model.name}", daemon=True)
        self._ready = threading.Event()

    def start(self) -> None:
        """Take the statistics, then stain what is wanted; returns at once, and does nothing the second time."""
        with self._news:
            if self._thread.ident is None and not self._is_closed:
                self._thread.start()

    def close(self) -> None:
        """Finish the tile at hand and let go of the spool."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def look(self, window: str, places: Iterable[tuple[int, int]]) -> None:
        """Replace what a window wants: rows and columns of the full size, the first first."""
        rows, columns = self.pyramid.grid(0)
        positions = [Position(0, row, column) for row, column in places if 0 <= row < rows and 0 <= column < columns]
        if positions:
            self.start()
        with self._news:
            self._wanted.pop(window, None)
            self._wanted[window] = positions
            while len(self._wanted) > _MOST_WINDOWS:
                self._wanted.pop(next(iter(self._wanted)))
            self._news.notify_all()

    def leave(self, window: str) -> None:
        """A window is closed: nothing more is stained for it."""
        with self._news:
            self._wanted.pop(window, None)

    def state(self) -> dict[str, Any]:
        """All that a page must know when it is opened."""
        with self._news:
            finished = [(position.row, position.column) for position in self._finished]
            todo = [(position.row, position.column) for position in self._work.keys() - self._finished]
            return {
                "phase": self.phase,
                "message": self.message,
                "finished": finished,
                "todo": todo,
                "done": len(finished),
                "total": len(finished) + len(todo),
                "all": True,
            }

    # ------------------------------------------------------------------------------------------------------- tiles

    def tile(self, position: Position) -> tuple[bytes, StainedTile | None]:
        """A tile as it is now.

        Returns:
            Its encoded bytes as they will be in the file, where it is whole, is kept and has a browser's format; else
            none, and its pixels.
        """
        place = position.row, position.column
        if self._ready.is_set() and self._is_whole(position):
            if data := self._kept(position):
                box = self.pyramid.box(position)
                side = self.pyramid.tile_px
                if self._sitting.writer.codec.is_jpeg and (box.width, box.height) == (side, side):
                    return data, None
                return b"", (self._decoded(data, box), _full(box))
            box = self.pyramid.box(position)
            return b"", (self._glass(box), _full(box))
        missing = self._missing[position.level].get(place) if self._ready.is_set() else None
        key = position, missing  # another number missing is another tile
        return b"", self._partial.get(key, lambda: self._compose(position), lambda tile: tile[0].nbytes)

    def slide(self) -> Slide:
        """What is stained so far as a slide that reads as the finished file will."""
        writer = self._sitting.writer
        source = SpooledSource(self.pyramid, writer.codec, writer.background, self.mpp, self._kept)
        return Slide(self._out, source)

    def need(self, boxes: Collection[Box], timeout_s: float = 600) -> None:
        """Wait until all that lies in boxes, in px of the full size, is stained; it goes before what is looked at.

        Raises:
            RestainError: staining has failed, or it takes longer than this.
        """
        self.start()
        with self._news:
            self._news.wait_for(lambda: self._ready.is_set() or self._is_over, timeout_s)
            needed = self._work.keys() & set(self._positions(boxes)) if self._ready.is_set() else set()
            self._asked += sorted(needed - self._finished)
            self._news.notify_all()
            self._news.wait_for(lambda: needed <= self._finished or self._is_over, timeout_s)
            if not self._ready.is_set() or not needed <= self._finished:
                raise RestainError(self.message or "the tiles are not stained yet; ask again, or for a smaller region")

    @property
    def _is_over(self) -> bool:
        """Whether nothing more will be stained."""
        return self._is_closed or self.phase == "failed"

    def _positions(self, boxes: Collection[Box]) -> Iterator[Position]:
        """The tiles of the full size that boxes touch."""
        side, (rows, columns) = self.pyramid.tile_px, self.pyramid.grid(0)
        for box in boxes:
            for row in range(max(0, box.y // side), min(rows, -(-(box.y + box.height) // side))):
                for column in range(max(0, box.x // side), min(columns, -(-(box.x + box.width) // side))):
                    yield Position(0, row, column)

    def pixel(self, x: int, y: int) -> RGB | None:
        """The pixel at a place of the full size as 1 x 1 x 3, or None where it is not stained yet."""
        side = self.pyramid.tile_px
        position = Position(0, y // side, x // side)
        if not self._ready.is_set() or position not in self._finished or not (data := self._kept(position)):
            return None
        rgb = self._decoded(data, self.pyramid.box(position))
        return rgb[y % side : y % side + 1, x % side : x % side + 1]

    def _is_whole(self, position: Position) -> bool:
        return not self._missing[position.level].get((position.row, position.column), 0)

    def _kept(self, position: Position) -> bytes | None:
        """The encoded tile of the file; a tile of a smaller level is made of those below, and kept, once they are."""
        writer = self._sitting.writer
        if data := writer.spool.get(position):
            return data
        if position.level == 0 or not self._has_tissue(position) or not self._is_whole(position):
            return None
        for row in children(position, self.pyramid):
            for child in row:
                self._kept(child)
        made = writer.halved(position)
        writer.put([made])
        return made[1]

    def _has_tissue(self, position: Position) -> bool:
        return (position.row, position.column) in self._missing[position.level]

    def _compose(self, position: Position) -> StainedTile:
        """The pixels of a tile that is not whole, from what is there of the finer ones."""
        box = self.pyramid.box(position)
        if position.level == 0 or not self._ready.is_set():
            return np.zeros((box.height, box.width, 3), np.uint8), np.zeros((box.height, box.width), np.uint8)
        below = [[self._pixels(child) for child in row] for row in children(position, self.pyramid)]
        rgb, alpha = (
            np.concatenate([np.concatenate([tile[n] for tile in row], axis=1) for row in below]) for n in (0, 1)
        )
        rgba = np.dstack([rgb, alpha])
        rgba = np.pad(rgba, ((0, rgba.shape[0] % 2), (0, rgba.shape[1] % 2), (0, 0)), mode="edge")
        small = np.asarray(Image.fromarray(rgba).reduce(2))[: box.height, : box.width]
        return small[..., :3], np.where(small[..., 3] == 255, 255, 0).astype(np.uint8)

    def _pixels(self, position: Position) -> StainedTile:
        data, tile = self.tile(position)
        box = self.pyramid.box(position)
        return tile or (self._decoded(data, box), _full(box))

    def _decoded(self, data: bytes, box: Box) -> RGB:
        side = self.pyramid.tile_px
        return self._sitting.writer.codec.decode(data, (side, side))[: box.height, : box.width]

    def _glass(self, box: Box) -> RGB:
        return np.full((box.height, box.width, 3), self._sitting.writer.background, np.uint8)

    # ------------------------------------------------------------------------------------------------ the one thread

    def _run(self) -> None:
        try:
            self._tell("statistics", "")
            self._sitting = Sitting(self._model, self._slide, self._out, self._settings)
            self._work = {position: index for index, one in enumerate(self._sitting.work) for position in one.positions}
            with self._sitting:
                self._sitting.prepare(self._count)
                self._begin()
                while (position := self._next()) is not None:
                    self._stain(position)
        except _ClosedError:
            return
        except RestainError as error:
            self._tell("failed", str(error))
        except Exception as error:  # the page must hear of it: nobody reads a thread's traceback
            self._tell("failed", f"staining failed: {error}")
            raise

    def _count(self, done: int, total: int) -> None:
        """Statistics are being taken; nobody waits for them after the window is closed."""
        if self._is_closed:
            raise _ClosedError
        if (percent := 100 * done // total) != 100 * (done - 1) // total:
            self._tell("statistics", f"{percent} %", everything=False)

    def _begin(self) -> None:
        """Know what an earlier run or window has left."""
        self._finished = self._sitting.writer.finished() & self._work.keys()
        self._missing = [{} for _ in self.pyramid.levels]
        for position in self._work:
            for level, missing in enumerate(self._missing):
                place = position.row >> level, position.column >> level
                missing[place] = missing.get(place, 0) + (position not in self._finished)
        self._ready.set()
        self._tell("ready", "")

    def _next(self) -> Position | None:
        """The tile to stain next; None when it is over."""
        with self._news:
            while not self._is_closed:
                self._asked = [position for position in self._asked if position not in self._finished]
                wanted = chain(self._asked, *self._wanted.values())
                if position := next((one for one in wanted if one in self._work and one not in self._finished), None):
                    return position
                self._news.wait()
            return None

    def _stain(self, position: Position) -> None:
        new = self._sitting.stain_at(self._work[position]) - self._finished
        with self._news:
            self._finished |= new
            for one in new:
                for level, missing in enumerate(self._missing):
                    missing[one.row >> level, one.column >> level] -= 1
            self._news.notify_all()
        self._publish(
            {
                "finished": [(one.row, one.column) for one in sorted(new)],
                "done": len(self._finished),
                "total": len(self._work),
            }
        )

    def _tell(self, phase: str, message: str, *, everything: bool = True) -> None:
        with self._news:
            self.phase, self.message = phase, message
            self._news.notify_all()
        self._publish(self.state() if everything else {"phase": phase, "message": message})


class _ClosedError(Exception):
    """The slide is not looked at any longer."""


def _full(box: Box) -> NDArray[np.uint8]:
    return np.full((box.height, box.width), 255, np.uint8)
