"""Helper processes: they end with this process and ignore Ctrl-C."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

CONTEXT = multiprocessing.get_context("spawn")
"""How processes begin: with nothing inherited, neither threads nor locks that somebody holds."""


def start_process(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    """Call a function in a new process, which never outlives this one.

    Args:
        work: a function of a module.
        arguments: its arguments; they must pickle, or be ends of pipes.
    """
    process = CONTEXT.Process(target=_work, args=(work, arguments))
    if not hasattr(signal, "pthread_sigmask"):
        process.start()
        return process
    resource_tracker.ensure_running()  # it would start with the first process and enable Ctrl-C again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited, or Ctrl-C would kill it
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def share_of_cores(processes: int) -> int:
    """Threads for each of so many processes; together no more than torch uses here."""
    import torch  # not above, so that a process without torch starts at once

    return max(1, torch.get_num_threads() // processes)


def _work(work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # a fork has the parent's answers
        signal.signal(number, signal.SIG_DFL)
    work(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
