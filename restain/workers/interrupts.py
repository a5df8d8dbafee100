"""Signals that stop a process: postponed until the work can stop, or ignored in a helper process."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals to stop: Ctrl-C, `kill` or a scheduler, a closed terminal."""

_PR_SET_PDEATHSIG = 1


@dataclass
class Postponed:
    """A postponed request to stop."""

    asked: bool = False
    _answers: dict[int, Callable[[int, FrameType | None], Any]] = field(default_factory=dict)
    _signal: int = signal.SIGINT

    def answer(self) -> None:
        """Stop now if requested: raise what the signal would have raised."""
        if self.asked:
            self._answers[self._signal](self._signal, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:  # the second time, stop now
            self._answers[number](number, frame)
        self.asked, self._signal = True, number


@contextmanager
def postponed() -> Iterator[Postponed]:
    """Within the context the first request to stop waits until `answer` is called; a second one stops at once.

    Only signals with Python handlers are postponed: Ctrl-C and any others that the program handles, and only in the
    main thread.
    """
    waiting = Postponed()
    if threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    waiting._answers = {number: answer for number, answer in before.items() if callable(answer)}
    try:
        for number in waiting._answers:
            signal.signal(number, waiting._handle)
        yield waiting
    finally:
        for number in waiting._answers:
            signal.signal(number, before[number])


@contextmanager
def answers_kept() -> Iterator[None]:
    """Restore the signal handlers that a library's code replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, answer in before.items():
            if signal.getsignal(number) != answer and answer is not None:  # None: not set by Python, nor settable
                signal.signal(number, answer)


def leave_stopping_to_parent(parent: int) -> None:
    """In a helper process: ignore signals to stop, and end when the parent ends for any reason.

    Args:
        parent: process id of the parent.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before this process could register
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
