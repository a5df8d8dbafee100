"""Stains many slides; each fails, is skipped or is resumed independently of the others.

A `Pool` runs the work in processes of this machine or on Ray; finished tiles of a lost worker are on disk, so that the
next one resumes its slide. Several slides are never stained in this process, which OpenSlide would end with them all by
aborting at a damaged tile.

Two calls with the same slides share them: each leaves the slides that the other has begun for the end, then waits, and
stains what the other did not finish.
"""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from restain.errors import InUseError, RestainError
from restain.slides.spool import wait_for_spool
from restain.staining.inputs import SlideJob
from restain.staining.model import Model, load_model
from restain.staining.settings import SlideReport, SlideSettings
from restain.staining.slide import Extra, stain_slide
from restain.workers.pool import Pool, Processes, TaskError

SlideResult = SlideReport | RestainError


@dataclass(frozen=True)
class ArchiveOutcome:
    """Results of `stain_slides`."""

    reports: list[SlideReport] = field(default_factory=list)
    failures: dict[Path, RestainError] = field(default_factory=dict)


def stain_slides(
    model: Path,
    jobs: Sequence[SlideJob],
    settings: SlideSettings | None = None,
    *,
    pool: Pool | None = None,
    overwrite: bool = False,
    extra: Extra | None = None,
    on_slide: Callable[[SlideJob, SlideResult], None] = lambda *_: None,
    on_wait: Callable[[list[SlideJob]], None] = lambda _: None,
) -> ArchiveOutcome:
    """Stain slides; failures do not stop the others, and finished slides are skipped.

    Args:
        model: checkpoint of a generator.
        jobs: from `find_slides`.
        settings: for all slides, the defaults if not given; micrometres per pixel of a job take precedence.
        pool: where slides are stained, and on which device; one by one on the CPU, if not given. Several slides go
            to a process of their own even one by one.
        overwrite: as in `stain_slide`.
        extra: likewise.
        on_slide: called when a slide is done or has failed.
        on_wait: called before waiting for another process, with the slides that it stains.

    Raises:
        MissingError, CheckpointError: the model cannot be used.
        InputError: `extra` cannot be made with these settings.
        RestainError: a process cannot begin.
    """
    settings, pool = settings or SlideSettings(), pool or Processes()
    if isinstance(pool, Processes) and len(jobs) > 1:
        pool = replace(pool, apart=True)
    if extra:
        extra.check(settings)
    sha256 = load_model(model).sha256  # a wrong model is reported once, not for each slide
    outcome = ArchiveOutcome()
    anywhere = replace(
        settings, rois=settings.rois and settings.rois.absolute()
    )  # a worker may start in another folder
    there = [replace(job, source=job.source.absolute(), target=job.target.absolute()) for job in jobs]
    awaited: dict[int, Path | None] = dict.fromkeys(range(len(jobs)))  # by index; a file of another process
    try:
        while awaited:
            calls = [
                (model.absolute(), sha256, there[index], anywhere, pool.device, overwrite, extra, file)
                for index, file in awaited.items()
            ]
            indices, awaited = list(awaited), {}
            for call, result in pool.each(_stain, calls):
                job = jobs[indices[call]]
                if isinstance(result, InUseError):
                    awaited[indices[call]] = result.target
                    continue
                if isinstance(result, TaskError):
                    result = RestainError(f"{job.source}: {result}")
                if isinstance(result, RestainError):
                    outcome.failures[job.source] = result
                else:
                    outcome.reports.append(result)
                on_slide(job, result)
            if awaited:
                on_wait([jobs[index] for index in awaited])
    finally:
        _load.cache_clear()
    return outcome


@lru_cache(maxsize=1)
def _load(model: Path, sha256: str, device: str) -> Model:
    """The model, loaded once per process; the hash detects a file that was replaced."""
    del sha256
    return load_model(model, device)


def _stain(
    model: Path,
    sha256: str,
    job: SlideJob,
    settings: SlideSettings,
    device: str,
    overwrite: bool,
    extra: Extra | None,
    awaited: Path | None,
) -> SlideResult:
    """Stain one slide of many, once no other process writes the awaited file; an error becomes its result."""
    if awaited:
        wait_for_spool(awaited)
    try:
        loaded = _load(model, sha256, device)
    except RestainError as error:
        return RestainError(f"{job.source}: {error} (on {platform.node()}, which must see the same files)")
    if loaded.sha256 != sha256:
        return RestainError(
            f"{job.source}: {model} was replaced while the slides were stained, as by a running training; stain them "
            "all with a copy that stays"
        )
    try:
        own = replace(settings, mpp=job.mpp) if job.mpp else settings
        return stain_slide(loaded, job.source, job.target, own, overwrite=overwrite, extra=extra)
    except RestainError as error:
        return error
