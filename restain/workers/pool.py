"""Pieces of work in processes of this machine, several at a time; `restain.workers.ray` does the same on a cluster.

Each process has a pipe of its own. A pool of `concurrent.futures` shares one queue and its lock: one killed process
breaks all the work under way there, or, idle, leaves the pool waiting for ever.
"""

import multiprocessing
import os
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
"""How often a piece of work is begun whose process was killed, for instance for lack of memory."""

T = TypeVar("T")


class TaskError(RestainError):
    """A piece of work that came to nothing: it failed, or its process died too often."""


class Pool(Protocol):
    """Where pieces of work are done: in processes of this machine, or on a Ray cluster."""

    @property
    def device(self) -> str:
        """Where a network runs in a piece of work, such as `cpu` or `cuda`."""

    def each(
        self,
        work: Callable[..., T],
        arguments: Sequence[tuple[object, ...]],
        *,
        fresh: bool = False,
        on_begin: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, T | TaskError]]:
        """Do the work once for each set of arguments; gives the indices and results as they come.

        Args:
            work: a function of a module, not of the main program.
            arguments: of each call; they pickle.
            fresh: each piece in a process of its own.
            on_begin: called with the index of a piece when it begins, where that is known.

        Raises:
            RestainError: a process cannot begin.
        """


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, `count` at a time. One that is killed is replaced, and its work begun again.

    A single one that need not be fresh is this process itself.
    """

    count: int = 1
    device: str = "cpu"
    """With `cuda` or `auto` the processes get the GPUs in turn, each as the only one that it sees."""
    attempts: int = ATTEMPTS

    def each(
        self,
        work: Callable[..., T],
        arguments: Sequence[tuple[object, ...]],
        *,
        fresh: bool = False,
        on_begin: Callable[[int], None] = lambda _: None,
    ) -> Iterator[tuple[int, T | TaskError]]:
        """As in `Pool`."""
        if self.count > 1 or fresh:
            return _Run(self, work, arguments, fresh, on_begin).results()
        return _here(work, arguments, on_begin)


def _here(
    work: Callable[..., T], arguments: Sequence[tuple[object, ...]], on_begin: Callable[[int], None]
) -> Iterator[tuple[int, T | TaskError]]:
    """One after the other, in this process."""
    for index, given in enumerate(arguments):
        on_begin(index)
        yield index, attempt(work, given)


class _Run:
    """Pieces of work that are waiting or under way in processes."""

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
        """Indices and results, as they come."""
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
            gpus = _gpus() if self._pool.device in ("cuda", "auto") else 0
            threads = share_of_cores(self._pool.count) if self._pool.count > 1 else None
            self._workers[slot] = _Worker(self._work, slot % gpus if gpus else None, threads)
        if not self._deaths[index]:
            self._on_begin(index)
        self._workers[slot].send(self._arguments[index])
        self._busy[slot] = index

    def _result(self, slot: int, index: int) -> Any:
        """What became of a piece of work; one whose process died waits again, if it may."""
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
        return TaskError(f"its process {result.words}{times}; memory may be too small")


def _gpus() -> int:
    import torch  # not above, as in `share_of_cores`

    return torch.cuda.device_count()


def attempt(work: Callable[..., T], arguments: tuple[object, ...]) -> T | TaskError:
    """Do a piece of work; what goes wrong becomes its result, so that the others go on."""
    try:
        return work(*arguments)
    except RestainError as error:
        return TaskError(str(error))
    except Exception as error:  # a night of work must not end with one odd piece
        traceback.print_exc()
        return TaskError(f"unexpected {type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Death:
    """What became of a process that did not answer."""

    words: str


class _Worker:
    """A process that does what is sent to it, until it is ended."""

    def __init__(self, work: Callable[..., Any], gpu: int | None, threads: int | None) -> None:
        self.pipe, there = multiprocessing.Pipe()
        self.process = start_process(_serve, there, work, gpu, threads)
        there.close()  # so that its end is noticed here
        if isinstance(death := self.hear(), _Death):
            raise RestainError(f"a process {death.words} before it began; try with a single one")

    def send(self, arguments: tuple[object, ...]) -> None:
        """Have it do a piece of work."""
        with suppress(OSError):  # of a dead one nothing will be heard
            self.pipe.send(arguments)

    def hear(self) -> Any:
        """What it answers, or its death."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            return _Death(f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")

    def end(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.join()


def _serve(pipe: Connection, work: Callable[..., Any], gpu: int | None, threads: int | None) -> None:
    """In the new process: take its share of the machine, and do what comes until it is ended."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if torch := sys.modules.get("torch"):  # the work may have brought it already
            torch.set_num_threads(threads)
    pipe.send("ready")
    while True:
        pipe.send(attempt(work, pipe.recv()))
