"""Serves one scene to browsers on this machine."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from restain.errors import InputError, RestainError
from restain.slides.pyramid import Position
from restain.slides.reader import Slide
from restain.stains import Marker
from restain.viewer.guard import Guard
from restain.viewer.live import LiveStain
from restain.viewer.outlines import Outlines
from restain.viewer.scene import Shown, cut_out, density_at, described, measure, rings_of

STATIC = Path(__file__).with_name("static")

MOST_WINDOWS = 16
"""Pages that hear news at a time."""
MOST_LOOKED_AT = 1024
_MOST_FIGURES = 2
"""Regions measured at a time; each takes the memory of a tile."""
_ALIVE_S = 15.0


class News:
    """Passes what the stains tell on to every open page."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pages: set[asyncio.Queue[str | None]] = set()

    def tell(self, news: Mapping[str, Any]) -> None:
        """Called from any thread."""
        self._send(json.dumps(news))

    def end(self) -> None:
        """Tell all pages that nothing more will come. Called from any thread."""
        self._send(None)

    def _send(self, text: str | None) -> None:
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._spread, text)

    def _spread(self, text: str | None) -> None:
        for page in self._pages:
            page.put_nowait(text)

    @property
    def is_full(self) -> bool:
        """Whether no further page can listen."""
        return len(self._pages) >= MOST_WINDOWS

    @contextmanager
    def page(self) -> Iterator[asyncio.Queue[str | None]]:
        """The news for one page, while it is open."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        self._pages.add(queue)
        try:
            yield queue
        finally:
            self._pages.discard(queue)


class Viewer:
    """The application: a scene, its pages, and nothing else of this machine."""

    def __init__(
        self,
        title: str,
        he: Slide,
        images: Sequence[Shown],
        overlays: Mapping[tuple[str, str], Callable[[], Path | Mapping[str, Any]]],
        news: News,
        *,
        cells: Mapping[str, Outlines] = MappingProxyType({}),
        marker: Marker = "membrane",
    ) -> None:
        """Serve a scene.

        Args:
            title: what the page is called.
            he: the slide; its px are the page's coordinates.
            images: what is shown, the H&E first.
            overlays: a file or GeoJSON by kind and by name of the image that it belongs to, '' for all of them.
            news: what the live stains tell.
            cells: outlines by name of the image that they belong to, '' for all of them.
            marker: where DAB lies on positive cells.
        """
        self._title, self._he, self._overlays, self._news, self._marker = title, he, overlays, news, marker
        self._images, self._cells = {image.name: image for image in images}, cells
        self._figures = threading.BoundedSemaphore(_MOST_FIGURES)

    def app(self, token: str, hosts: Sequence[str], *, in_notebook: bool = False) -> Guard:
        """The guarded application; arguments as of `Guard`."""
        routes = [
            Route("/", self._page),
            Route("/scene.json", self._scene),
            Route("/tiles/{image}/{level:int}/{place}", self._tile),
            Route("/events", self._events),
            Route("/look", self._look, methods=["POST"]),
            Route("/probe", self._probe),
            Route("/measure", self._measure, methods=["POST"]),
            Route("/export", self._export, methods=["POST"]),
            Route("/cells", self._cells_within),
            Route("/overlays/{kind}", self._overlay),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
        application = Starlette(routes=routes, exception_handlers={RestainError: _refused})
        return Guard(application, token, hosts, in_notebook=in_notebook)

    def end(self) -> None:
        """Let go of the pages that listen, so that the server can stop."""
        self._news.end()

    def image(self, name: object) -> Shown:
        """An image by its name.

        Raises:
            InputError: there is none.
        """
        if not isinstance(name, str) or name not in self._images:
            raise InputError(f"there is no image {str(name)[:40]!r}; known: {', '.join(self._images)}")
        return self._images[name]

    def _page(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-store"})

    def _scene(self, request: Request) -> Response:
        kinds = sorted({kind for kind, _ in self._overlays})
        scene = described(self._title, self._he, list(self._images.values()), kinds, list(self._cells))
        return JSONResponse(scene, headers={"Cache-Control": "no-store"})

    def _tile(self, request: Request) -> Response:
        shown = self.image(request.path_params["image"])
        pyramid, level = shown.pixels.pyramid, request.path_params["level"]
        column, _, row = request.path_params["place"].partition("_")
        if not (column.isdigit() and row.isdigit() and len(column + row) < 16 and level < len(pyramid.levels)):
            raise InputError("a tile is named LEVEL/COLUMN_ROW")
        position = Position(level, int(row), int(column))
        rows, columns = pyramid.grid(level)
        if position.row >= rows or position.column >= columns:
            raise InputError(f"level {level} has {columns} x {rows} tiles")
        data, media, is_whole = shown.tile(position)
        headers = {"X-Whole": str(int(is_whole)), "Cache-Control": "private, max-age=3600" if is_whole else "no-store"}
        return Response(data, media_type=media, headers=headers)

    async def _events(self, request: Request) -> Response:
        if self._news.is_full:
            return PlainTextResponse(f"{MOST_WINDOWS} pages are open already; close one", 429)
        return StreamingResponse(
            self._told(request), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def _told(self, request: Request) -> AsyncIterator[str]:
        window = request.query_params.get("window", "")[:64]
        with self._news.page() as queue:
            try:
                for image in self._images.values():
                    if isinstance(image.pixels, LiveStain):
                        state = await run_in_threadpool(image.pixels.state)
                        yield _event({"image": image.name, **state})
                while not await request.is_disconnected():
                    try:
                        told = await asyncio.wait_for(queue.get(), _ALIVE_S)
                        if told is None:
                            return
                        yield f"data: {told}\n\n"
                    except TimeoutError:
                        yield ": still here\n\n"
            finally:
                for image in self._images.values():
                    if isinstance(image.pixels, LiveStain):
                        image.pixels.leave(window)

    async def _look(self, request: Request) -> Response:
        asked = await _json(request)
        shown, places = self.image(asked.get("image")), asked.get("tiles")
        if not isinstance(places, list) or len(places) > MOST_LOOKED_AT or not all(map(_is_place, places)):
            raise InputError(f"expected at most {MOST_LOOKED_AT} tiles, each [row, column]")
        window = str(asked.get("window", ""))[:64]
        for image in self._images.values():
            if isinstance(image.pixels, LiveStain):
                image.pixels.look(window, [(row, column) for row, column in places] if image is shown else [])
        return JSONResponse({})

    def _probe(self, request: Request) -> Response:
        try:
            x, y = float(request.query_params["x"]), float(request.query_params["y"])
        except (KeyError, ValueError):
            raise InputError("expected x and y in px of the H&E") from None
        if not (0 <= x < self._he.size[0] and 0 <= y < self._he.size[1]):
            raise InputError("the place is outside the slide")
        found = {name: density_at(image, x, y) for name, image in self._images.items() if image.kind != "he"}
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    async def _measure(self, request: Request) -> Response:
        asked = await _json(request)
        shown, polygon = self.image(asked.get("image")), rings_of(asked.get("polygon"))
        figures, notes = await run_in_threadpool(self._one_by_one, measure, shown, polygon, self._marker)
        return JSONResponse({"figures": figures, "notes": notes})

    async def _export(self, request: Request) -> Response:
        asked = await _json(request)
        shown, polygon = self.image(asked.get("image")), rings_of(asked.get("polygon"))
        return Response(await run_in_threadpool(self._one_by_one, cut_out, shown, polygon), media_type="image/png")

    def _one_by_one(self, work: Callable[..., Any], *arguments: Any) -> Any:
        with self._figures:
            return work(*arguments)

    def _cells_within(self, request: Request) -> Response:
        cells = self._cells.get(request.query_params.get("image", "")) or self._cells.get("")
        if cells is None:
            return PlainTextResponse("there are no cells of this image", 404)
        try:
            left, top, right, bottom = map(float, request.query_params.get("box", "").split(","))
        except ValueError:
            raise InputError("expected box as left,top,right,bottom in px of the H&E") from None
        return JSONResponse(cells.within((left, top, right, bottom)), headers={"Cache-Control": "no-store"})

    def _overlay(self, request: Request) -> Response:
        kind, image = request.path_params["kind"], request.query_params.get("image", "")
        overlay = self._overlays.get((kind, image)) or self._overlays.get((kind, ""))
        if overlay is None:
            return PlainTextResponse("there is no such overlay", 404)
        found = overlay()
        return FileResponse(found) if isinstance(found, Path) else JSONResponse(found)


def _event(news: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(news)}\n\n"


async def _json(request: Request) -> dict[str, Any]:
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise InputError("the request is not JSON") from error
    if not isinstance(content, dict):
        raise InputError("the request is not a JSON object")
    return content


def _is_place(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == 2 and all(type(side) is int and 0 <= side < 2**24 for side in value)
    )


async def _refused(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)
