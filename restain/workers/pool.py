"""Runs tasks in processes of this machine, several at a time; `restain.workers.ray` does the same on a cluster.

Each process has its own pipe. A pool of `concurrent.futures` shares one queue and its lock: one killed process breaks
all running tasks or, if idle, leaves the pool waiting forever.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from restain.errors import RestainError
from restain.workers.processes import share_of_cores, start_process

ATTEMPTS = 3
"""How often a task is tried whose process is killed, for instance for lack of memory."""

T = TypeVar("T")


class TaskError(RestainError):
    """A task that failed, or whose process died too often."""


class Pool(Protocol):
    """Where tasks run: in processes of this machine, or on a Ray cluster."""

    @property
    def device(self) -> str:
        """The device of networks in a task, such as `cpu` or `cuda`."""

    def each(
        self,
        work: Callable[..., T],
        arguments: Sequence[tuple[object, ...]],
        *,
        fresh: bool = False,
        on_begin: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, T | TaskError]]:
        """Run the work once per set of arguments; yields indices and results as they complete.

        Args:
            work: a function of a module, not of the main program.
            arguments: of each call; they must pickle.
            fresh: run each task in a new process.
            on_begin: called with the index of a task when it begins, if that is known.

        Raises:
            RestainError: a process cannot start.
        """


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, `count` at a time. If one is killed, it is replaced and its task is tried again.

    A single process that need be neither fresh nor apart is this process.
    """

    count: int = 1
    device: str = "cpu"
    """With `cuda` or `auto` several processes take the GPUs in turn, and each sees only its own."""
    attempts: int = ATTEMPTS
    apart: bool = False
    """Whether tasks run in another process even one at a time, so that a library that aborts ends only its task."""

    def each(
        self,
        work: Callable[..., T],
        arguments: Sequence[tuple[object, ...]],
        *,
        fresh: bool = False,
        on_begin: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, T | TaskError]]:
        """As in `Pool`."""
        if self.count > 1 or fresh or self.apart:
            return _Run(self, work, arguments, fresh, on_begin).results()
        return _here(work, arguments, on_begin)


def _here(
    work: Callable[..., T], arguments: Sequence[tuple[object, ...]], on_begin: Callable[[int], None]
) -> Iterator[tuple[int, T | TaskError]]:
    """Run the tasks one by one in this process."""
    for index, given in enumerate(arguments):
        on_begin(index)
        yield index, attempt(work, given)


class _Run:
    """Tasks that are waiting or running in processes."""

    def __init__(
        self,
        pool: Processes,
        work: Callable[..., Any],
        arguments: Sequence[tuple[object, ...]],
        fresh: bool,
        on_begin: Callable[[int], None],
    ) -> None:
        self._pool, self._work, self._arguments, self._fresh, self._on_begin = pool, work, arguments, fresh, on_begin
        self._waiting, self._deaths = deque(range(len(arguments))), Counter[int]()
        self._idle, self._busy = list(range(min(pool.count, len(arguments)))), dict[int, int]()  # slot: index
        self._workers = dict[int, _Worker]()  # by slot

    def results(self) -> Iterator[tuple[int, Any]]:
        """Yield indices and results as they complete."""
        try:
            while self._waiting or self._busy:
                while self._waiting and self._idle:
                    self._begin(self._idle.pop(0), self._waiting.popleft())
                ready = wait([self._workers[slot].pipe for slot in self._busy])
                for slot in [slot for slot in self._busy if self._workers[slot].pipe in ready]:
                    index = self._busy.pop(slot)
                    result = self._result(slot, index)
                    self._idle.append(slot)
                    if index not in self._waiting:
                        yield index, result
        finally:
            for worker in self._workers.values():
                worker.end()

    def _begin(self, slot: int, index: int) -> None:
        if slot not in self._workers:
            gpus = _gpus() if self._pool.count > 1 and self._pool.device in ("cuda", "auto") else 0
            threads = share_of_cores(self._pool.count) if self._pool.count > 1 else None
            self._workers[slot] = _Worker(self._work, slot % gpus if gpus else None, threads)
        if not self._deaths[index]:
            self._on_begin(index)
        self._workers[slot].send(self._arguments[index])
        self._busy[slot] = index

    def _result(self, slot: int, index: int) -> Any:
        """The result of a task; if its process died, it is queued again while attempts are left."""
        result = self._workers[slot].hear()
        if self._fresh or isinstance(result, _Death):
            self._workers.pop(slot).end()
        if not isinstance(result, _Death):
            return result
        self._deaths[index] += 1
        attempts = self._pool.attempts
        if self._deaths[index] < attempts:
            self._waiting.appendleft(index)
        times = f", {attempts} times" if attempts > 1 else ""
        return TaskError(f"its process {result.words}{times}; {result.cause}")


def _gpus() -> int:
    import torch  # not above, as in `share_of_cores`

    return torch.cuda.device_count()


def attempt(work: Callable[..., T], arguments: tuple[object, ...]) -> T | TaskError:
    """Run a task; an exception becomes its result, so that other tasks continue."""
    try:
        return work(*arguments)
    except RestainError as error:
        return TaskError(str(error))
    except Exception as error:  # one bad task must not end a night of work
        traceback.print_exc()
        return TaskError(f"unexpected {type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Death:
    """The end of a process that did not answer."""

    words: str
    crashed: bool = False
    """Whether it ended itself in code that is not Python."""

    @property
    def cause(self) -> str:
        """What probably happened, and what to do."""
        if self.crashed:
            return "a library crashed, so its file is probably damaged: copy it again"
        return "perhaps memory is too small, so run fewer at a time"


_CRASHES = {getattr(signal, name, None) for name in ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")}


class _Worker:
    """A process that runs the tasks that are sent to it."""

    def __init__(self, work: Callable[..., Any], gpu: int | None, threads: int | None) -> None:
        self.pipe, there = multiprocessing.Pipe()
        self.process = start_process(_serve, there, work, gpu, threads)
        there.close()  # so that the end of the process is noticed here
        if isinstance(death := self.hear(), _Death):
            raise RestainError(f"a process {death.words} before it started; try a single process")

    def send(self, arguments: tuple[object, ...]) -> None:
        """Send it a task."""
        with suppress(OSError):  # a dead process is noticed when it should answer
            self.pipe.send(arguments)

    def hear(self) -> Any:
        """Its answer, or its death."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            return _Death(f"was killed by signal {-code}" if code < 0 else f"ended with code {code}", -code in _CRASHES)

    def end(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, work: Callable[..., Any], gpu: int | None, threads: int | None) -> None:
    """In the new process: take its share of the machine, and run tasks until it is ended."""
    if gpu is not None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or str(gpu)
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[gpu if "," in visible else 0]
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if torch := sys.modules.get("torch"):  # the work may have imported it already
            torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # the process that sends tasks is gone
        pipe.send("ready")
        while True:
            pipe.send(attempt(work, pipe.recv()))
