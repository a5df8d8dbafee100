"""Cuts two slides into registered pairs of tiles: registered once, then tile by tile, resumable at any point.

The state of a pair of slides is in `slides/NAME`: `slides.json` (which slides), `transform.json`, `tiles.jsonl` (a
line for each tile in order, kept or not, to resume from), `overlay.png` and `tiles.png`, and `done.json` at the end.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from restain.errors import InputError, OutputError, RestainError
from restain.image import RGB, atomic_path, make_folder, save_image
from restain.registration.jobs import SlidePair
from restain.registration.overview import look, mpp_read, shared_tissue
from restain.registration.pictures import save_overlay, save_tiles
from restain.registration.slides import Demands, Registration, register
from restain.registration.tiling import CutSettings, PlannedTile, TileFacts, cut_tile, plan_tiles
from restain.registration.transform import Scan, load_transform, read_transform
from restain.slides.identity import content_key
from restain.slides.reader import Slide, open_slide
from restain.workers.threads import ahead

BASE = "TrainValAB"
SLIDES = "slides"
NOTE, DONE = "slides.json", "done.json"
TRANSFORM, TILES, OVERLAY, SHEET = "transform.json", "tiles.jsonl", "overlay.png", "tiles.png"

OnCutProgress = Callable[[str, int, int], None]
"""Called with the current work, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class CutReport:
    """Report on one pair of slides."""

    name: str
    split: str
    kept: int
    tiles: int
    """With enough tissue on the H&E."""
    figures: dict[str, float]
    """Of the transform."""
    left_out: dict[str, int]
    """Number of tiles left out, by reason."""


def cut_slides(
    pair: SlidePair,
    root: Path,
    settings: CutSettings,
    demands: Demands,
    *,
    inverse: bool = False,
    threads: int = 1,
    on_progress: OnCutProgress | None = None,
) -> CutReport:
    """Cut one pair of slides, or resume it.

    Args:
        pair: the slides.
        root: folder of the data set.
        settings: which tiles.
        demands: requirements on the slides.
        inverse: whether a given matrix maps the IHC to the H&E.
        threads: for reading, matching and warping.
        on_progress: see `OnCutProgress`.

    Raises:
        MissingError, InputError: a slide or transform cannot be used, or the slides do not belong together.
        OutputError: the folder cannot be written, or was cut from other slides or for another part.
    """
    folder = root / SLIDES / pair.name
    make_folder(folder)
    _refuse_other(folder, pair)
    if (folder / DONE).exists():
        return _report(pair, folder)
    tell = on_progress or (lambda *_: None)
    with open_slide(pair.he, pair.he_mpp) as he, open_slide(pair.ihc, pair.ihc_mpp) as ihc:
        found = _registered(pair, folder, he, ihc, demands, inverse, threads, tell)
        places = plan_tiles(he, found.he, found.shared, settings)
        if not places:
            raise InputError(
                f"{pair.he} has no tile of {settings.size_px} px at {settings.mpp:g} µm with "
                f"{settings.least_tissue:.0%} tissue; choose smaller tiles or a smaller share of tissue"
            )
        known = _known(folder / TILES)

        def cut(place: PlannedTile) -> tuple[TileFacts, tuple[RGB, RGB] | None]:
            return cut_tile(he, ihc, found.transform, place, settings)

        tell("tiles", len(known), len(places))
        with ExitStack() as stack:
            log = stack.enter_context((folder / TILES).open("a", encoding="utf-8"))
            pool = stack.enter_context(ThreadPoolExecutor(threads))
            for facts, sides in ahead(pool, cut, places[len(known) :], 2 * threads):
                if sides is not None:
                    for path, rgb in zip(tile_path(pair, root, facts.x_px, facts.y_px), sides, strict=True):
                        save_image(path, rgb)
                row = facts.row()
                try:
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                except OSError as error:
                    raise OutputError(f"cannot write {folder / TILES}: {error.strerror}; check the disk") from error
                known.append(TileFacts.of(row))
                tell("tiles", len(known), len(places))
        tile_um = settings.size_px * mpp_read(he, settings.mpp)
        save_overlay(folder / OVERLAY, found.he, found.ihc, found.transform, found.shared, known, tile_um)
        shown = [(tile, *tile_path(pair, root, tile.x_px, tile.y_px)) for tile in known if not tile.why]
        save_tiles(folder / SHEET, shown)
    with atomic_path(folder / DONE) as temporary:
        temporary.write_text(json.dumps({"tiles": len(known), "kept": len(shown)}) + "\n", encoding="utf-8")
    return _report(pair, folder)


def _registered(
    pair: SlidePair,
    folder: Path,
    he: Slide,
    ihc: Slide,
    demands: Demands,
    inverse: bool,
    threads: int,
    tell: OnCutProgress,
) -> Registration:
    """The transform from an earlier run, from a file, or found; and the overviews."""
    scans = [Scan(slide.path.name, slide.size, slide.mpp) for slide in (he, ihc)]
    kept = folder / TRANSFORM
    tell("registering", 0, 0)
    if kept.exists() or pair.transform is not None:
        first, second = look(he), look(ihc)
        transform = (
            load_transform(kept)
            if kept.exists()
            else read_transform(pair.transform or kept, scans[0], scans[1], inverse=inverse)
        )
        found = Registration(transform, first, second, shared_tissue(first, second, transform, transform.back))
    else:
        found = register(
            he, ihc, demands, threads=threads, on_progress=lambda done, total: tell("registering", done, total)
        )
    if not kept.exists():
        found.transform.save(kept)
    return found


def tile_path(pair: SlidePair, root: Path, x_px: int, y_px: int) -> tuple[Path, Path]:
    """The files of the two sides of a tile."""
    name = f"{pair.name}_x{x_px:06d}_y{y_px:06d}"
    name += f"_{pair.grade}" if pair.grade else ""
    return root / BASE / f"{pair.split}A" / f"{name}.png", root / BASE / f"{pair.split}B" / f"{name}.png"


def _known(path: Path) -> list[TileFacts]:
    """The recorded tiles; a truncated last line is removed."""
    if not path.exists():
        return []
    with undamaged(path):
        content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        with atomic_path(path) as temporary:
            temporary.write_bytes(whole)
    return read_tiles(path, whole)


def read_tiles(path: Path, content: bytes | None = None) -> list[TileFacts]:
    """The facts that a `tiles.jsonl` holds.

    Args:
        path: the file.
        content: of it, if it is read already.

    Raises:
        OutputError: it is damaged.
    """
    with undamaged(path):
        lines = (path.read_bytes() if content is None else content).decode("utf-8").splitlines()
        return [TileFacts.of(json.loads(line)) for line in lines]


@contextmanager
def undamaged(path: Path) -> Iterator[None]:
    """Raise errors on damaged files of an earlier run as restain errors; a pipe, which might never end, is refused."""
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a plain file; remove it and run the same command again")
    try:
        yield
    except RestainError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"{path} is damaged ({error}); remove the folder {path.parent} and run the same command again"
        ) from error


def begun_pair(folder: Path) -> SlidePair:
    """The slides that a folder belongs to, and their part, as they were when it was begun.

    Raises:
        OutputError: the record is damaged.
    """
    with undamaged(note := folder / NOTE):
        found = json.loads(note.read_text(encoding="utf-8"))
        he, ihc = Path(found["he"]), Path(found["ihc"])
        return SlidePair(he, ihc, folder.name, str(found["case"]), str(found["split"]), str(found["grade"]))


def _refuse_other(folder: Path, pair: SlidePair) -> None:
    """Record the slides that a folder belongs to, or check them."""
    note = folder / NOTE
    contents = {"he_contents": pair.he, "ihc_contents": pair.ihc}
    wanted = {
        "he": str(pair.he.resolve()),
        "ihc": str(pair.ihc.resolve()),
        "case": pair.case,
        "split": pair.split,
        "grade": pair.grade,
        "transform": pair.transform and pair.transform.read_text(encoding="utf-8", errors="replace"),
        "he_mpp": pair.he_mpp,
        "ihc_mpp": pair.ihc_mpp,
        **{key: content_key(path) for key, path in contents.items() if path.is_file()},
    }
    if not note.exists():
        with atomic_path(note) as temporary:
            temporary.write_text(json.dumps(wanted, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        return
    with undamaged(note):
        found = json.loads(note.read_text(encoding="utf-8"))
        known = {name: value for name, value in wanted.items() if name in found or name not in contents}
        differing = [name for name, value in known.items() if found.get(name) != value]
    if differing:
        name = differing[0]
        if name in contents:
            raise OutputError(
                f"{folder} was begun with another slide of the name {contents[name]}; remove the folder and its tiles, "
                "or choose another place"
            )
        raise OutputError(
            f"{folder} was begun with {name} {_short(found.get(name))}, now it is {_short(wanted[name])}; remove the "
            "folder and its tiles, or choose another place"
        )


def _short(value: object) -> str:
    words = str(value)
    return words if len(words) <= 80 else f"{words[:77]}..."


def _report(pair: SlidePair, folder: Path) -> CutReport:
    tiles = read_tiles(folder / TILES)
    left_out: dict[str, int] = {}
    for tile in tiles:
        if tile.why:
            left_out[tile.why] = left_out.get(tile.why, 0) + 1
    figures = load_transform(folder / TRANSFORM).figures
    return CutReport(pair.name, pair.split, sum(not tile.why for tile in tiles), len(tiles), figures, left_out)
