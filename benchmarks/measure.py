"""Measure time and peak memory of one function, each in a process of its own."""

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch


@dataclass(frozen=True)
class Cost:
    """What a function costs."""

    seconds: float
    """Median over the repeats."""
    peak_mib: float
    """Largest resident memory of the process."""
    extra_mib: float
    """The same less what was resident before the first call."""
    cpu_seconds: float
    """Median processor time of all threads, which does not count waiting for whatever else the machine runs."""


def cost(
    prepare: Callable[..., Callable[[], object]],
    *arguments: object,
    repeats: int = 3,
    threads: int = 2,
    warm_up: bool = True,
) -> Cost:
    """Call, in a fresh process, `prepare(*arguments)` and then what it returns: once to warm up, then for the clock."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(sender, prepare, arguments, repeats, threads, warm_up))
    process.start()
    sender.close()
    result: Cost = receiver.recv()
    process.join()
    return result


def _measure(
    sender: Connection,
    prepare: Callable[..., Callable[[], object]],
    arguments: tuple[object, ...],
    repeats: int,
    threads: int,
    warm_up: bool,
) -> None:
    torch.set_num_threads(threads)
    run = prepare(*arguments)
    before = _peak_mib()
    if warm_up:
        run()
    seconds, cpu_seconds = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    peak = _peak_mib()
    sender.send(Cost(statistics.median(seconds), peak, peak - before, statistics.median(cpu_seconds)))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
