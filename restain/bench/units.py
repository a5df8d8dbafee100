"""Work in processes of its own, several at a time; one that fails or dies does not stop the others."""

import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch
from rich.console import Console

from restain.errors import RestainError
from restain.workers.processes import share_of_cores, start_process
from restain.workers.ray import Cluster


@dataclass(frozen=True)
class Unit:
    """Something to do in a process of its own."""

    words: str
    work: Callable[..., None]
    """Called with `arguments` and a console, or None where nothing is to be shown."""
    arguments: tuple[object, ...]
    needs: tuple[str, ...] = ()
    """Words of units that must have been done before."""


@dataclass
class UnitProgress:
    """Tells which unit begins or ends, and about how long all of it will take."""

    console: Console | None
    total: int
    done: int = 0
    start: float = field(default_factory=time.monotonic)

    def begins(self, unit: Unit) -> None:
        """Announce a unit."""
        self._say(f"[{self.done + 1}/{self.total}] {unit.words}{self._left()}")

    def ends(self, unit: Unit, failure: str | None) -> None:
        """Count a unit."""
        self.done += 1
        if failure:
            self._say(f"{unit.words} failed: {failure}")

    def stands(self) -> None:
        """Tell how far it is, where units do not tell when they begin."""
        self._say(f"{self.done} of {self.total} done{self._left()}")

    def _left(self) -> str:
        if self.done in (0, self.total):
            return ""
        seconds = (time.monotonic() - self.start) / self.done * (self.total - self.done)
        return f", about {timedelta(seconds=round(seconds))} left"

    def _say(self, words: str) -> None:
        if self.console:
            self.console.print(words, soft_wrap=True, highlight=False, markup=False)


@dataclass
class _Running:
    """A unit at work."""

    unit: Unit
    slot: int
    process: BaseProcess
    result: Connection

    def failure(self) -> str | None:
        """Why it failed, once it has ended; None where it did not."""
        try:
            said = str(self.result.recv())
        except EOFError:  # it had nothing to say
            said = ""
        code = self.process.exitcode
        if not said and code:
            cause = f"was killed by signal {-code}, perhaps for want of memory" if code < 0 else f"ended with {code}"
            said = f"its process {cause}"
        return said or None


def without_unmet(units: Sequence[Unit], failures: dict[str, str], progress: UnitProgress) -> list[Unit]:
    """Leave out units that need one that failed.

    Args:
        units: what is to be done next.
        failures: by words, why earlier units failed; gets those that are left out.
        progress: is told of those that are left out.

    Returns:
        The others.
    """
    able = []
    for unit in units:
        unmet = next((words for words in unit.needs if words in failures), None)
        if unmet is None:
            able.append(unit)
        else:
            failures[unit.words] = f"not begun, because {unmet} failed"
            progress.ends(unit, failures[unit.words])
    return able


def run_units(units: Sequence[Unit], workers: int, device: str, progress: UnitProgress) -> dict[str, str]:
    """Do all units, `workers` at a time.

    Args:
        units: in the order in which they begin.
        workers: how many at a time; each gets its share of the cores, and the GPUs in turn.
        device: no GPU is given out if this is `cpu`.
        progress: is told of each.

    Returns:
        By the unit's words, why it failed; empty where all went well.
    """
    waiting, running, failures = list(units), list[_Running](), dict[str, str]()
    gpus = 0 if device == "cpu" else torch.cuda.device_count()
    threads = share_of_cores(workers) if workers > 1 else 0
    show = workers == 1 and progress.console is not None
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                unit, slot = waiting.pop(0), min(set(range(workers)) - {busy.slot for busy in running})
                progress.begins(unit)
                running.append(_start(unit, slot, slot % gpus if gpus else None, threads, show))
            wait([busy.process.sentinel for busy in running])
            for ended in [busy for busy in running if not busy.process.is_alive()]:
                ended.process.join()
                running.remove(ended)
                failure = ended.failure()
                progress.ends(ended.unit, failure)
                if failure:
                    failures[ended.unit.words] = failure
    finally:
        for busy in running:
            busy.process.terminate()
            busy.process.join()
    return failures


def run_units_on(cluster: Cluster, units: Sequence[Unit], device: str, progress: UnitProgress) -> dict[str, str]:
    """Do all units on a Ray cluster, as many at a time as it has room for; one whose worker is lost is tried again.

    Args:
        cluster: where every machine sees the same files.
        units: as for `run_units`.
        device: `cpu`, or `cuda` for one GPU each.
        progress: is told of each.

    Returns:
        By the unit's words, why it failed; empty where all went well.
    """
    failures = dict[str, str]()
    for index, said in cluster.each(_do_there, [(unit,) for unit in units], device=device, fresh=True):
        failure = str(said) if said else None
        progress.ends(units[index], failure)
        progress.stands()
        if failure:
            failures[units[index].words] = failure
    return failures


def _do_there(unit: Unit) -> str | None:
    """In a process of its own on the cluster: work, and say what went wrong."""
    try:
        unit.work(*unit.arguments, None)
    except RestainError as error:
        return str(error)
    return None


def _start(unit: Unit, slot: int, gpu: int | None, threads: int, show: bool) -> _Running:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = start_process(_do, sender, unit, gpu, threads, show)
    sender.close()
    return _Running(unit, slot, process, receiver)


def _do(sender: Connection, unit: Unit, gpu: int | None, threads: int, show: bool) -> None:
    """In the new process: take its share of the machine, work, and say what went wrong."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    if threads:
        torch.set_num_threads(threads)
    try:
        unit.work(*unit.arguments, Console(stderr=True) if show else None)
    except RestainError as error:
        sender.send(str(error))
