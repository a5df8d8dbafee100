"""Opens the files of a scene and serves it until told to stop."""

import errno
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from restain.errors import InputError, OutputError
from restain.registration.field import Affine
from restain.registration.transform import Scan, Transform, read_transform
from restain.slides.identity import job_of
from restain.slides.reader import Slide, open_slide
from restain.slides.tissue import find_tissue
from restain.staining.model import load_model
from restain.staining.settings import SlideSettings
from restain.staining.sitting import job_name
from restain.stains import Marker
from restain.viewer.guard import new_token
from restain.viewer.live import LiveStain
from restain.viewer.outlines import Corners, Outlines
from restain.viewer.pictures import RegisteredPicture, SlidePicture
from restain.viewer.scene import Shown
from restain.viewer.server import News, Viewer


@dataclass(frozen=True)
class View:
    """What is looked at."""

    slide: Path
    models: tuple[Path, ...] = ()
    """Checkpoints; each is a virtual stain to choose."""
    ihc: Path | None = None
    """The slide of the neighbouring section, really stained."""
    transform: Path | None = None
    """From the H&E to it; without one both are laid corner on corner, µm on µm."""
    cells: tuple[Path, ...] = ()
    """GeoJSON of `restain quantify`; each is drawn over the image that it is named after."""
    out: Path | None = None
    """Folder of the results that the tiles are for; the slide's if not given."""
    settings: SlideSettings = field(default_factory=SlideSettings)
    device: str = "cpu"
    marker: Marker = "membrane"


@contextmanager
def open_view(view: View, notes: list[str]) -> Iterator[Viewer]:
    """Open all files and start the first stain.

    Args:
        view: what is looked at.
        notes: what is worth knowing is added here.

    Raises:
        MissingError, InputError, CheckpointError: a file cannot be used.
        OutputError: the result of another run lies where the tiles are to be kept.
    """
    news = News()
    with ExitStack() as stack:
        he = stack.enter_context(open_slide(view.slide, view.settings.mpp))
        images = [Shown("he", "H&E", "he", SlidePicture(he))]
        overlays: dict[tuple[str, str], Callable[[], Path | Mapping[str, Any]]] = {}
        _check_names(view)
        for number, path in enumerate(view.models, start=1):
            images.append(_virtual(f"virtual{number}", path, he, view, news, stack, overlays))
        if view.ihc:
            images.append(_real(view, he, stack, notes))
        overlays["tissue", ""] = _once(lambda: _tissue(he))
        cells = _cells(view, images, notes)
        yield Viewer(view.slide.name, he, images, overlays, news, cells=cells, marker=view.marker)


def _virtual(
    name: str,
    path: Path,
    he: Slide,
    view: View,
    news: News,
    stack: ExitStack,
    overlays: dict[tuple[str, str], Callable[[], Path | Mapping[str, Any]]],
) -> Shown:
    """One model's stain: its finished file where it is there, else tiles on demand."""
    model = load_model(path, view.device)
    label = f"virtual {model.stain or 'IHC'} ({_called(path)})"
    out = result_of(view.slide, path, view.out)
    trust = out.with_name(f"{out.name.removesuffix('.ome.tif')}.trust.png")
    if trust.is_file():
        overlays["trust", name] = lambda: trust
    if out.exists():
        if job_of(out) != job_name(model, he, view.settings):
            raise OutputError(
                f"{out} is another result (another model, slide, setting or version of restain); move it away, or give "
                "another folder"
            )
        finished = stack.enter_context(open_slide(out))
        picture = SlidePicture(finished)
        return Shown(name, label, "virtual", picture, finished.mpp / he.mpp, finished)
    live = LiveStain(model, he, out, view.settings, lambda told: news.tell({"image": name, **told}))
    stack.callback(live.close)
    if name == "virtual1":
        live.start()
    return Shown(name, label, "virtual", live, he.scale(live.mpp))


def result_of(slide: Path, model: Path, out: Path | None) -> Path:
    """Where the stain of a slide by a model is kept: `SLIDE.MODEL.ome.tif`."""
    return (out or slide.parent) / f"{slide.name.partition('.')[0]}.{_called(model)}.ome.tif"


def _check_names(view: View) -> None:
    """Refuse two models whose tiles would be kept under one name."""
    called: dict[str, Path] = {}
    for path in view.models:
        if (other := called.setdefault(_called(path), path)) != path or view.models.count(path) > 1:
            raise InputError(f"{other} and {path} are both called {_called(path)}; rename one, or give one of them")


def _called(model: Path) -> str:
    """A model by its name; one that is called as all are, by its folder's."""
    return model.resolve().parent.name if model.stem == "model" else model.stem


def _real(view: View, he: Slide, stack: ExitStack, notes: list[str]) -> Shown:
    assert view.ihc is not None
    ihc = stack.enter_context(open_slide(view.ihc))
    scans = Scan(view.slide.name, he.size, he.mpp), Scan(view.ihc.name, ihc.size, ihc.mpp)
    if view.transform:
        transform = read_transform(view.transform, *scans)
    else:
        transform = Transform(*scans, Affine.identity())
        notes.append(f"{view.ihc.name} is shown as it lies; a transform (restain pairs cut) puts it in register")
    return Shown(
        "ihc", f"real IHC ({view.ihc.name})", "ihc", RegisteredPicture(ihc, transform, he), 1.0, ihc, transform
    )


def _tissue(he: Slide) -> Mapping[str, Any]:
    """The tissue as GeoJSON."""
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": polygon}, "properties": {}}
        for polygon in find_tissue(he).polygons()
    ]
    return {"type": "FeatureCollection", "features": features}


def _once(make: Callable[[], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
    lock = threading.Lock()
    made: list[Mapping[str, Any]] = []

    def get() -> Mapping[str, Any]:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


def _cells(view: View, images: list[Shown], notes: list[str]) -> dict[str, Outlines]:
    """The cells of each image that a file is named after; '' for all images."""
    names = {_stem(view.slide): "he"}
    names |= {_stem(result_of(view.slide, model, view.out)): f"virtual{n}" for n, model in enumerate(view.models, 1)}
    if view.ihc:
        names[_stem(view.ihc)] = "ihc"
    found: dict[str, Outlines] = {}
    for path in view.cells:
        name = names.get(_stem(path), "")
        if name in found:
            raise InputError(f"{path}: cells of the same image are given twice; give one file for each image")
        if not name:
            notes.append(
                f"{path.name} is named after none of the images ({', '.join(names)}); its coordinates are taken as px "
                "of the H&E"
            )
        found[name] = Outlines(path, _placing(next((image for image in images if image.name == name), None)))
    return found


def _placing(shown: Shown | None) -> Callable[[Corners], Corners]:
    """From px of the first level of an image's file to px of the H&E's."""
    if shown is None:
        return lambda points: points
    if transform := shown.transform:
        return lambda points: transform.back(points * transform.ihc.mpp) / transform.he.mpp
    return lambda points: points * shown.scale


def _stem(path: Path) -> str:
    """A file's name without its ending: `case` of `case.ome.tif` and of `case.geojson`."""
    return path.stem.removesuffix(".ome")


class _Uvicorn(uvicorn.Server):
    """Ends the streams to the pages first, which would otherwise never end."""

    def __init__(self, end: Callable[[], None], config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = end

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end()
        await super().shutdown(sockets)


EVERYWHERE = ("0.0.0.0", "::")
"""Stand for all addresses of this machine, and are the name of none."""


def _addresses(name: str) -> set[str]:
    """The addresses under which other machines may know this one, as they stand in a Host header."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}
    except OSError:
        return set()
    return {f"[{address}]" if ":" in address else address for address in found}


class Server:
    """Listens at an address of its own until it is closed."""

    def __init__(self, viewer: Viewer, host: str, port: int, *, in_notebook: bool = False) -> None:
        """Bind the address; `run` or `start` serves.

        Raises:
            InputError: the address cannot be used.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen(128)
        except (OSError, OverflowError) as error:
            self._socket.close()
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise InputError(
                    f"port {port} is in use, perhaps by another viewer; choose another port, or none for a free one"
                ) from error
            raise InputError(
                f"cannot listen on {host}, port {port} ({error}); choose another address or port"
            ) from error
        port = self._socket.getsockname()[1]
        token, name = new_token(), f"[{host}]" if ":" in host else host
        hosts = {name, "127.0.0.1", "localhost", "[::1]"}
        if host in EVERYWHERE:
            name = socket.gethostname()
            hosts |= {name, socket.getfqdn(), *_addresses(name)}
        self.address = f"http://{name}:{port}/{token}/"
        """What to open in a browser; nobody else knows it."""
        self._server = _Uvicorn(
            viewer.end,
            uvicorn.Config(
                viewer.app(token, sorted(hosts), in_notebook=in_notebook),
                log_level="error",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=64 * 1024,
            ),
        )

    def run(self, *, open_browser: bool) -> None:
        """Serve until Ctrl-C."""
        if open_browser:
            threading.Timer(0.5, webbrowser.open, [self.address]).start()
        self._server.run([self._socket])

    def start(self) -> threading.Thread:
        """Serve from a thread of its own, until `close`."""
        thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
