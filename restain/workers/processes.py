"""Processes that work for this one: they end when it ends, and leave Ctrl-C to it."""

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
    """Call a function in a fresh process, which never outlives this one, however this one ends.

    Args:
        work: a function of a module.
        arguments: what it is called with; they must pickle, or be ends of pipes.
    """
    process = CONTEXT.Process(target=_work, args=(work, arguments))
    if not hasattr(signal, "pthread_sigmask"):
        process.start()
        return process
    resource_tracker.ensure_running()  # it would start with the first process, and let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: it would die of Ctrl-C, with noise
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def share_of_cores(processes: int) -> int:
    """How many threads each of so many processes should use; together no more than torch would use here."""
    import torch  # not above: a process that needs none begins at once

    return max(1, torch.get_num_threads() // processes)


def _work(work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(*arguments)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
