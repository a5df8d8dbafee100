"""Being asked to stop by Ctrl-C, `kill` or a closed terminal: when it suits the work, or not at all in a helper."""

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
"""What asks a process to stop: Ctrl-C, `kill` or a scheduler, a closed terminal."""

_PR_SET_PDEATHSIG = 1


@dataclass
class Postponed:
    """A request to stop that waits."""

    asked: bool = False
    _answers: dict[int, Callable[[int, FrameType | None], Any]] = field(default_factory=dict)
    _signal: int = signal.SIGINT

    def answer(self) -> None:
        """Stop now, if that was asked for: what the signal would have raised is raised here."""
        if self.asked:
            self._answers[self._signal](self._signal, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:  # a second time: now
            self._answers[number](number, frame)
        self.asked, self._signal = True, number


@contextmanager
def postponed() -> Iterator[Postponed]:
    """Within the context the first request to stop waits until `answer` is called; a second one is answered at once.

    Only signals that Python code answers are postponed, which is Ctrl-C and whatever else the program has handlers for,
    and only in the main thread.
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
    """Around a library's code that would take the signals for itself: they are answered afterwards as before."""
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
    """In a helper process: take no signals that ask to stop, and end when the parent has ended, however it did.

    Args:
        parent: process number of the one that this one helps.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before this process could ask to be told
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
