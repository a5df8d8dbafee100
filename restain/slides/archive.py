"""Stains many slides: each is a unit of its own, that fails, is skipped or is continued without the others."""

import csv
import multiprocessing
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from restain.errors import InputError, MissingError, RestainError
from restain.slides.reader import SLIDE_SUFFIXES
from restain.slides.settings import Model, SlideReport, SlideSettings, load_model
from restain.slides.staining import stain_slide

ATTEMPTS = 3
"""How often a slide is begun whose process was killed, for instance for lack of memory."""

_BIG_TIFF, _TILE_WIDTH = 43, 322


@dataclass(frozen=True)
class SlideJob:
    """One slide to stain."""

    source: Path
    target: Path
    mpp: float | None = None


@dataclass
class ArchiveOutcome:
    """What became of the slides given to `stain_slides`."""

    reports: list[SlideReport] = field(default_factory=list)
    failures: dict[Path, RestainError] = field(default_factory=dict)

    def note(self, job: SlideJob, result: SlideReport | RestainError) -> None:
        """Add what became of one slide."""
        if isinstance(result, RestainError):
            self.failures[job.source] = result
        else:
            self.reports.append(result)


def is_slide(path: Path) -> bool:
    """Whether a file is a slide by its ending, or a TIFF in tiles; ordinary images are stored in strips."""
    name = path.name.lower()
    return any(name.endswith(suffix) for suffix in SLIDE_SUFFIXES) or (
        name.endswith((".tif", ".tiff")) and _is_in_tiles(path)
    )


def _is_in_tiles(path: Path) -> bool:
    """Whether the first directory of a TIFF or BigTIFF gives a width of tiles."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            order = {b"II": "<", b"MM": ">"}[head[:2]]
            (version,) = struct.unpack(f"{order}H", head[2:4])
            place, count, entry_bytes = ("Q", "Q", 20) if version == _BIG_TIFF else ("I", "H", 12)
            file.seek(*struct.unpack_from(f"{order}{place}", head, 8 if version == _BIG_TIFF else 4))
            (entries,) = struct.unpack(f"{order}{count}", file.read(struct.calcsize(count)))
            tags = (struct.unpack(f"{order}H", file.read(entry_bytes)[:2])[0] for _ in range(entries))
            return _TILE_WIDTH in tags
    except (OSError, KeyError, struct.error):
        return False


def find_slides(inputs: Sequence[Path], out: Path) -> list[SlideJob]:
    """Pair each slide with its result, `out/NAME.ome.tif`; subfolders are kept.

    Args:
        inputs: slides, folders of them, and CSV files with a column `slide` and, where wanted, `mpp` and `name` (of the
            result, without its ending). Paths in a CSV start from its folder.
        out: folder of the results.

    Raises:
        MissingError: an input does not exist.
        InputError: a folder without slides, a CSV without the column, or two slides with the same name.
    """
    jobs: dict[Path, SlideJob] = {}
    for job in (job for given in inputs for job in _found(given, out)):
        earlier = jobs.setdefault(job.target, job)
        if earlier.source.resolve() != job.source.resolve():
            raise InputError(
                f"{earlier.source} and {job.source} would both become {job.target}; give them names in a CSV "
                "(columns slide, name)"
            )
    return list(jobs.values())


def _found(given: Path, out: Path) -> Iterator[SlideJob]:
    if not given.exists():
        raise MissingError(f"{given} does not exist; a slide, a folder of slides or a CSV is expected")
    if given.suffix.lower() == ".csv":
        yield from _listed(given, out)
    elif given.is_file():
        yield SlideJob(given, out / _result_name(given.name))
    else:
        slides = [path for path in sorted(given.rglob("*")) if is_slide(path) and path.is_file()]
        slides = [path for path in slides if out.resolve() not in path.resolve().parents]
        if not slides:
            endings = ", ".join(sorted(SLIDE_SUFFIXES))
            raise InputError(f"{given} holds no slides; expected files that end in {endings}, or TIFFs in tiles")
        for path in slides:
            name = path.relative_to(given)
            yield SlideJob(path, out / name.with_name(_result_name(name.name)))


def _listed(table: Path, out: Path) -> Iterator[SlideJob]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{table} cannot be read as a CSV: {error}") from error
    if not rows or "slide" not in rows[0]:
        raise InputError(f"{table} needs a first line with a column 'slide' (and, where wanted, mpp and name)")
    for line, row in enumerate(rows, start=2):
        source = table.parent / row["slide"]
        try:
            mpp = float(row["mpp"]) if row.get("mpp") else None
        except ValueError as error:
            raise InputError(f"{table}, line {line}: mpp {row['mpp']!r} is not a number") from error
        yield SlideJob(source, out / _result_name(row.get("name") or source.name), mpp)


def _result_name(name: str) -> str:
    ending = next((suffix for suffix in (".ome.tif", ".ome.tiff") if name.lower().endswith(suffix)), None)
    return f"{name[: -len(ending)] if ending else Path(name).stem}.ome.tif"


def shard(jobs: Sequence[SlideJob], part: str) -> list[SlideJob]:
    """Every n-th slide, for `i/n`: the shares 0/n to n-1/n are disjoint and together all.

    Raises:
        InputError: not of this form.
    """
    index, _, count = part.partition("/")
    if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise InputError(f"--shard {part}: expected i/n with i from 0 to n - 1, such as 0/8")
    return list(jobs[int(index) :: int(count)])


def stain_slides(
    model: Path,
    jobs: Sequence[SlideJob],
    settings: SlideSettings,
    *,
    device: str = "cpu",
    workers: int = 1,
    overwrite: bool = False,
    on_slide: Callable[[SlideJob, SlideReport | RestainError], None] | None = None,
) -> ArchiveOutcome:
    """Stain slides; what fails does not stop the others, what is finished is skipped.

    Args:
        model: checkpoint of a generator.
        jobs: from `find_slides`.
        settings: for all of them; a job's own micrometres per pixel go first.
        device: where the network runs.
        workers: processes, each with a slide of its own. One that is killed is replaced and its slide continued.
        overwrite: as in `stain_slide`.
        on_slide: called when a slide is done or has failed.

    Raises:
        MissingError, CheckpointError: the model cannot be used.
    """
    outcome = ArchiveOutcome()
    loaded = load_model(model, device)

    def note(job: SlideJob, result: SlideReport | RestainError) -> None:
        outcome.note(job, result)
        if on_slide:
            on_slide(job, result)

    if workers == 1:
        for job in jobs:
            note(job, attempt(loaded, job, settings, overwrite))
        return outcome
    waiting = list(jobs)
    for _ in range(ATTEMPTS):
        waiting = _in_processes(model, waiting, settings, device, workers, overwrite, note) if waiting else []
    for job in waiting:
        note(job, RestainError(f"{job.source}: its process was killed {ATTEMPTS} times; memory may be too small"))
    return outcome


def _in_processes(
    model: Path,
    jobs: Sequence[SlideJob],
    settings: SlideSettings,
    device: str,
    workers: int,
    overwrite: bool,
    note: Callable[[SlideJob, SlideReport | RestainError], None],
) -> list[SlideJob]:
    """Stain in processes; gives the slides that were under way or waiting when one of these was killed."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    lost = []
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _begin, (model, device, threads)) as pool:
        futures: dict[Future[SlideReport | RestainError], SlideJob] = {
            pool.submit(_work, job, settings, overwrite): job for job in jobs
        }
        for future in as_completed(futures):
            try:
                note(futures[future], future.result())
            except BrokenProcessPool:
                lost.append(futures[future])
    return lost


_here: list[Model] = []
"""In a worker's process: the model, loaded once."""


def _begin(model: Path, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    _here.append(load_model(model, device))


def _work(job: SlideJob, settings: SlideSettings, overwrite: bool) -> SlideReport | RestainError:
    return attempt(_here[0], job, settings, overwrite)


def attempt(model: Model, job: SlideJob, settings: SlideSettings, overwrite: bool) -> SlideReport | RestainError:
    """Stain one slide of many: whatever goes wrong becomes its result, so that the others go on."""
    try:
        own = replace(settings, mpp=job.mpp) if job.mpp else settings
        return stain_slide(model, job.source, job.target, own, overwrite=overwrite)
    except RestainError as error:
        return error
    except Exception as error:  # a night of work must not end with one odd slide
        return RestainError(f"{job.source}: unexpected {type(error).__name__}: {error}; alone, it shows where from")
