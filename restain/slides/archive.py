"""Stains many slides: each is a unit of its own, that fails, is skipped or is continued without the others."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from restain.cluster import ATTEMPTS
from restain.errors import RestainError
from restain.slides.jobs import SlideJob
from restain.slides.settings import Model, SlideReport, SlideSettings, load_model
from restain.slides.staining import stain_slide

Result = SlideReport | RestainError


@dataclass
class ArchiveOutcome:
    """What became of the slides given to `stain_slides`."""

    reports: list[SlideReport] = field(default_factory=list)
    failures: dict[Path, RestainError] = field(default_factory=dict)

    def note(self, job: SlideJob, result: Result) -> None:
        """Add what became of one slide."""
        if isinstance(result, RestainError):
            self.failures[job.source] = result
        else:
            self.reports.append(result)


def stain_slides(
    model: Path,
    jobs: Sequence[SlideJob],
    settings: SlideSettings,
    *,
    device: str = "cpu",
    workers: int = 1,
    overwrite: bool = False,
    on_slide: Callable[[SlideJob, Result], None] | None = None,
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

    def note(job: SlideJob, result: Result) -> None:
        outcome.note(job, result)
        if on_slide:
            on_slide(job, result)

    if workers == 1:
        for job in jobs:
            note(job, attempt(loaded, job, settings, overwrite))
        return outcome
    _in_processes(model, jobs, settings, device, workers, overwrite, note)
    return outcome


@dataclass(frozen=True)
class _Process:
    """A process that stains what is sent to it."""

    slot: int
    process: BaseProcess
    pipe: Connection


def _in_processes(
    model: Path,
    jobs: Sequence[SlideJob],
    settings: SlideSettings,
    device: str,
    workers: int,
    overwrite: bool,
    note: Callable[[SlideJob, Result], None],
) -> None:
    """Stain in processes that last; one that is killed is replaced, and its slide continued.

    Each has a pipe of its own. A pool of `concurrent.futures` shares one queue and its lock: one killed process breaks
    all the work under way there, or, idle, leaves the pool waiting for ever.
    """
    waiting = deque((job, 1) for job in jobs)
    idle = [_start(slot, model, settings, device, workers, overwrite) for slot in range(min(workers, len(jobs)))]
    busy: list[tuple[_Process, SlideJob, int]] = []
    try:
        while waiting or busy:
            while waiting and idle:
                process, (job, begun) = idle.pop(0), waiting.popleft()
                busy.append((process, job, begun))
                with suppress(OSError):  # a dead one is noticed below
                    process.pipe.send(job)
            ready = wait([process.pipe for process, *_ in busy])
            for ended in [one for one in busy if one[0].pipe in ready]:
                busy.remove(ended)
                process, job, begun = ended
                try:
                    result: Result = process.pipe.recv()
                except (EOFError, OSError):
                    process.process.join()
                    idle.append(_start(process.slot, model, settings, device, workers, overwrite))
                    if begun < ATTEMPTS:
                        waiting.appendleft((job, begun + 1))
                        continue
                    words = f"{job.source}: its process was killed {ATTEMPTS} times; memory may be too small"
                    result = RestainError(words)
                else:
                    idle.append(process)
                note(job, result)
    finally:
        for process in [*idle, *(process for process, *_ in busy)]:
            process.process.terminate()
            process.process.join()


def _start(slot: int, model: Path, settings: SlideSettings, device: str, workers: int, overwrite: bool) -> _Process:
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    own = f"cuda:{slot % gpus}" if gpus else device
    threads = max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, model, settings, own, threads, overwrite))
    process.start()
    there.close()  # so that its end is noticed here
    return _Process(slot, process, here)


def _serve(pipe: Connection, model: Path, settings: SlideSettings, device: str, threads: int, overwrite: bool) -> None:
    """In the new process: stain what comes until nobody listens."""
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError, KeyboardInterrupt):
        loaded = load_model(model, device)
        while True:
            pipe.send(attempt(loaded, pipe.recv(), settings, overwrite))


def attempt(model: Model, job: SlideJob, settings: SlideSettings, overwrite: bool) -> Result:
    """Stain one slide of many: whatever goes wrong becomes its result, so that the others go on."""
    try:
        own = replace(settings, mpp=job.mpp) if job.mpp else settings
        return stain_slide(model, job.source, job.target, own, overwrite=overwrite)
    except RestainError as error:
        return error
    except Exception as error:  # a night of work must not end with one odd slide
        return RestainError(f"{job.source}: unexpected {type(error).__name__}: {error}; alone, it shows where from")
