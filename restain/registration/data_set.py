"""Cuts many pairs of slides into one data set, each in a separate process; one that fails does not stop the others."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from restain.errors import OutputError
from restain.image import atomic_path, make_folder, remove_unfinished
from restain.registration.cut import SLIDES, TILES, CutReport, begun_pair, cut_slides, read_tiles, tile_path, undamaged
from restain.registration.jobs import SlidePair
from restain.registration.slides import Demands
from restain.registration.tiling import CutSettings
from restain.workers.lock import locked
from restain.workers.pool import Pool, Processes

LIST = "pairs.csv"
SETTINGS = "cut.json"


@dataclass
class CutOutcome:
    """Results for the pairs of slides."""

    reports: list[CutReport] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons by name of the pair."""
    listed: dict[str, int] = field(default_factory=dict)
    """Number of tiles in `pairs.csv` by split, those of earlier runs included."""


@dataclass(frozen=True)
class CutJob:
    """Settings for all pairs of slides."""

    root: Path
    settings: CutSettings
    demands: Demands
    inverse: bool = False
    """Whether given matrices map the IHC to the H&E."""
    threads: int = 1
    """Of each pair of slides."""


OnEvent = Callable[[SlidePair, str, int, int], None]
"""Called with a pair of slides, its current work, how much is done, and how much there is."""


def cut_data_set(
    pairs: Sequence[SlidePair],
    job: CutJob,
    *,
    pool: Pool | None = None,
    on_event: OnEvent | None = None,
    on_done: Callable[[SlidePair, CutReport | str], None] | None = None,
) -> CutOutcome:
    """Cut pairs of slides and list the tiles of all that are there in `pairs.csv`.

    Args:
        pairs: the slides.
        job: how they are cut.
        pool: where; None: one after the other in this process.
        on_event: called when each begins and, without a pool, after each tile.
        on_done: called with the report of each, or the reason why it failed.

    Raises:
        OutputError: the folder cannot be written, was begun with other settings, or is being cut by another process.
    """
    make_folder(job.root)
    outcome = CutOutcome()
    told = on_event or (lambda *_: None)
    tile_by_tile = on_event if pool is None else None  # it may not pickle
    with locked(job.root, f"{job.root} is being cut by another process; wait for it, or choose another place"):
        remove_unfinished(job.root)
        _refuse_other_settings(job)
        results = (pool or Processes()).each(
            cut_pair,
            [(pair, job, tile_by_tile) for pair in pairs],
            on_begin=lambda index: told(pairs[index], "at work", 0, 0),
        )
        for index, result in results:
            if isinstance(result, CutReport):
                outcome.reports.append(result)
            else:
                outcome.failures[pairs[index].name] = str(result)
            if on_done:
                on_done(pairs[index], result if isinstance(result, CutReport) else str(result))
        outcome.listed = _write_list(job)
    return outcome


def cut_pair(pair: SlidePair, job: CutJob, on_event: OnEvent | None = None) -> CutReport:
    """Cut one pair of slides of many."""

    def tell(doing: str, done: int, total: int) -> None:
        if on_event:
            on_event(pair, doing, done, total)

    return cut_slides(
        pair, job.root, job.settings, job.demands, inverse=job.inverse, threads=job.threads, on_progress=tell
    )


def _refuse_other_settings(job: CutJob) -> None:
    """Record the settings of a folder, or check them."""
    path = job.root / SETTINGS
    wanted = {**asdict(job.settings), **asdict(job.demands), "inverse": job.inverse}
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        return
    with undamaged(path):
        found = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name, value in wanted.items() if found.get(name) != value]
    if differing:
        raise OutputError(
            f"{job.root} was begun with {differing[0]} {found.get(differing[0])}, now it is {wanted[differing[0]]}; "
            "use the same value, or choose another folder"
        )


def _write_list(job: CutJob) -> dict[str, int]:
    """List every tile that is there, with all that is known of it: of finished and unfinished slides of all runs."""
    text = io.StringIO()
    writer = None
    listed: Counter[str] = Counter()
    for file in sorted((job.root / SLIDES).glob(f"*/{TILES}")):
        pair = begun_pair(file.parent)
        for tile in read_tiles(file):
            if tile.why:
                continue
            he, ihc = (
                path.relative_to(job.root).as_posix() for path in tile_path(pair, job.root, tile.x_px, tile.y_px)
            )
            facts = {name: value for name, value in tile.row().items() if name != "why"}
            row = {
                "he": he, "ihc": ihc, "case": pair.case, "grade": pair.grade, "split": pair.split,
                "he_slide": pair.he.name, "ihc_slide": pair.ihc.name, **facts,
                "mpp": job.settings.mpp, "size_px": job.settings.size_px,
            }  # fmt: skip
            if writer is None:
                writer = csv.DictWriter(text, list(row), lineterminator="\n")
                writer.writeheader()
            writer.writerow(row)
            listed[pair.split] += 1
    if writer is not None:
        with atomic_path(job.root / LIST) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8")
    return dict(listed)
