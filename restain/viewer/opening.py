"""Opens the files of a scene."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from restain.errors import InputError, OutputError
from restain.folders import beside
from restain.models import called
from restain.registration.field import Affine
from restain.registration.transform import Scan, Transform, read_transform
from restain.slides.identity import job_of
from restain.slides.kinds import is_plain_image
from restain.slides.reader import Slide, open_slide
from restain.slides.tissue import find_tissue
from restain.staining.model import load_model
from restain.staining.settings import SlideSettings
from restain.staining.sitting import job_name
from restain.stains import Marker
from restain.trust.slide import SlideMaps
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
    virtual: tuple[Path, ...] = ()
    """Finished virtual stains of the slide, also of other programs; an image without a scale has the H&E's."""
    ihc: Path | None = None
    """The slide of the neighbouring section, really stained."""
    ihc_mpp: float | None = None
    """Its micrometres per pixel, where its file has none or wrong ones."""
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
        for number, path in enumerate(view.virtual, start=1 + len(view.models)):
            images.append(_finished(f"virtual{number}", path, he, stack))
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
    label = f"virtual {model.stain or 'IHC'} ({called(path)})"
    out = result_of(view.slide, path, view.out)
    if out.exists():
        if job_of(out) != job_name(model, he, view.settings):
            raise OutputError(
                f"{out} is another result (another model, slide, setting or version of restain); move it away, or give "
                "another folder"
            )
        if SlideMaps().is_made(model, out):
            overlays["trust", name] = lambda: beside(out, "trust.png")
        finished = stack.enter_context(open_slide(out))
        picture = SlidePicture(finished)
        return Shown(name, label, "virtual", picture, finished.mpp / he.mpp, finished)
    live = LiveStain(model, he, out, view.settings, lambda told: news.tell({"image": name, **told}))
    stack.callback(live.close)
    if name == "virtual1":
        live.start()
    return Shown(name, label, "virtual", live, he.scale(live.mpp))


def _finished(name: str, path: Path, he: Slide, stack: ExitStack) -> Shown:
    slide = stack.enter_context(_beside(path, he))
    width, height = (round(side * slide.mpp / he.mpp) for side in slide.size)
    if abs(width - he.size[0]) > 0.02 * he.size[0] or abs(height - he.size[1]) > 0.02 * he.size[1]:
        raise InputError(
            f"{path} covers {width} x {height} px of the H&E, which has {he.size[0]} x {he.size[1]}; give one of the "
            "whole image"
        )
    called = path.parent.name if _stem(path) == _stem(he.path) else _stem(path)
    return Shown(name, f"virtual ({called})", "virtual", SlidePicture(slide), slide.mpp / he.mpp, slide)


def _beside(path: Path, he: Slide, mpp: float | None = None) -> Slide:
    """Open an image of the scene; plain images do not say their scale and have the H&E's, unless it is given."""
    return open_slide(path, he.mpp if mpp is None and is_plain_image(path) else mpp)


def result_of(slide: Path, model: Path, out: Path | None) -> Path:
    """Where the stain of a slide by a model is kept: `SLIDE.MODEL.ome.tif`."""
    return (out or slide.parent) / f"{_stem(slide)}.{called(model)}.ome.tif"


def _check_names(view: View) -> None:
    """Refuse two models whose tiles would be kept under one name."""
    names: dict[str, Path] = {}
    for path in view.models:
        if (other := names.setdefault(called(path), path)) != path or view.models.count(path) > 1:
            raise InputError(f"{other} and {path} are both called {called(path)}; rename one, or give one of them")


def _real(view: View, he: Slide, stack: ExitStack, notes: list[str]) -> Shown:
    assert view.ihc is not None
    ihc = stack.enter_context(_beside(view.ihc, he, view.ihc_mpp))
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
    stained = [*(result_of(view.slide, model, view.out) for model in view.models), *view.virtual]
    files = {"he": view.slide} | {f"virtual{number}": path for number, path in enumerate(stained, start=1)}
    if view.ihc:
        files["ihc"] = view.ihc
    names = {_stem(path): name for name, path in files.items()}
    found: dict[str, Outlines] = {}
    for path in view.cells:
        name = names.get(_stem(path), "")
        if others := [other for other in files if other != name and _stem(files[other]) == _stem(path)]:
            labels = {image.name: image.label for image in images}
            notes.append(
                f"{path.name} is named after several images; its cells are drawn over {labels[name]}, not over "
                f"{', '.join(labels[other] for other in others)}: name image and cells alike to change that"
            )
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
    """A file's name without its ending: `S24.101` of `S24.101.ome.tif` and of `S24.101.geojson`."""
    return path.stem[:-4] if path.stem.lower().endswith(".ome") else path.stem
