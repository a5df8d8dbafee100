"""Stains many slides: each is a unit of its own, that fails, is skipped or is continued without the others."""

import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from restain.errors import RestainError
from restain.staining.inputs import SlideJob
from restain.staining.model import Model, load_model
from restain.staining.settings import SlideReport, SlideSettings
from restain.staining.slide import Extra, stain_slide
from restain.workers.processes import share_of_cores, start_process
from restain.workers.ray import ATTEMPTS

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
    extra: Extra | None = None,
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
        extra: likewise.
        on_slide: called when a slide is done or has failed.

    Raises:
        MissingError, CheckpointError: the model cannot be used.
        InputError: `extra` cannot be made with these settings.
    """
    if extra:
        extra.check(settings)
    outcome = ArchiveOutcome()
    loaded = load_model(model, device)

    def note(job: SlideJob, result: Result) -> None:
        outcome.note(job, result)
        if on_slide:
            on_slide(job, result)

    if workers == 1:
        for job in jobs:
            note(job, attempt(loaded, job, settings, overwrite, extra))
        return outcome
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    threads = share_of_cores(workers)

    def start(slot: int) -> _Worker:
        own = f"cuda:{slot % gpus}" if gpus else device
        return _Worker(lambda pipe: start_process(_serve, pipe, model, settings, own, threads, overwrite, extra))

    _in_processes(jobs, start, min(workers, len(jobs)), note)
    return outcome


class _Worker:
    """A process that stains what is sent to it, until it is ended."""

    def __init__(self, start: Callable[[Connection], BaseProcess]) -> None:
        self.pipe, there = multiprocessing.Pipe()
        self.process = start(there)
        there.close()  # so that its end is noticed here

    def begin(self) -> None:
        """Wait until it has loaded the model.

        Raises:
            RestainError: it cannot, or died.
        """
        try:
            reason: RestainError | None = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            reason = RestainError(f"a process for slides ended (code {code}) before it began; try with --workers 1")
        if reason:
            raise reason

    def send(self, job: SlideJob) -> None:
        """Have it stain a slide."""
        with suppress(OSError):  # of a dead one nothing will be heard
            self.pipe.send(job)

    def hear(self) -> Result | None:
        """What became of the slide; None if the process died."""
        try:
            result: Result = self.pipe.recv()
        except (EOFError, OSError):
            return None
        return result


def _in_processes(
    jobs: Sequence[SlideJob], start: Callable[[int], _Worker], count: int, note: Callable[[SlideJob, Result], None]
) -> None:
    """Stain in processes that last; one that is killed is replaced, and its slide continued.

    Each has a pipe of its own. A pool of `concurrent.futures` shares one queue and its lock: one killed process breaks
    all the work under way there, or, idle, leaves the pool waiting for ever.

    Raises:
        RestainError: a process cannot begin.
    """
    waiting, deaths = deque(jobs), Counter[SlideJob]()
    workers, idle, busy = list[_Worker](), list(range(count)), dict[int, SlideJob]()
    try:
        workers.extend(start(slot) for slot in idle)
        for worker in workers:
            worker.begin()
        while waiting or busy:
            while waiting and idle:
                slot = idle.pop(0)
                busy[slot] = waiting.popleft()
                workers[slot].send(busy[slot])
            ready = wait([workers[slot].pipe for slot in busy])
            for slot in [slot for slot in busy if workers[slot].pipe in ready]:
                job, result = busy.pop(slot), workers[slot].hear()
                if result is None:
                    workers[slot].process.join()
                    workers[slot] = start(slot)
                    workers[slot].begin()
                    deaths[job] += 1
                    if deaths[job] < ATTEMPTS:
                        waiting.appendleft(job)
                    else:
                        words = f"{job.source}: its process died {ATTEMPTS} times; memory may be too small"
                        result = RestainError(words)
                idle.append(slot)
                if result is not None:
                    note(job, result)
    finally:
        for worker in workers:
            worker.process.terminate()
            worker.process.join()


def _serve(
    pipe: Connection,
    model: Path,
    settings: SlideSettings,
    device: str,
    threads: int,
    overwrite: bool,
    extra: Extra | None,
) -> None:
    """In the new process: stain what comes until it is ended."""
    torch.set_num_threads(threads)
    try:
        loaded = load_model(model, device)
    except RestainError as error:
        pipe.send(error)
        return
    except Exception as error:  # such as a GPU without room for one model more
        pipe.send(RestainError(f"a process for slides cannot begin: {type(error).__name__}: {error}"))
        return
    pipe.send(None)
    while True:
        pipe.send(attempt(loaded, pipe.recv(), settings, overwrite, extra))


def attempt(model: Model, job: SlideJob, settings: SlideSettings, overwrite: bool, extra: Extra | None) -> Result:
    """Stain one slide of many: whatever goes wrong becomes its result, so that the others go on."""
    try:
        own = replace(settings, mpp=job.mpp) if job.mpp else settings
        return stain_slide(model, job.source, job.target, own, overwrite=overwrite, extra=extra)
    except RestainError as error:
        return error
    except Exception as error:  # a night of work must not end with one odd slide
        return RestainError(f"{job.source}: unexpected {type(error).__name__}: {error}; alone, it shows where from")
