"""How commands stop on Ctrl-C, on `kill` or a scheduler's signal, and when the terminal is closed."""

import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import typer

RESUME = "Stopped; run the same command to resume."
AGAIN = "Stopped; nothing is left half-written, so run the same command to start again."


class Stopped(KeyboardInterrupt):
    """A signal with the same meaning as Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stoppable_by_signals() -> Iterator[None]:
    """Within the context SIGTERM and SIGHUP raise `Stopped`; signals that are ignored, as under nohup, stay ignored."""
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    replaced = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


def stoppable(command: Callable[..., None], words: str) -> Callable[..., None]:
    """Wrap a command to print `words` when it is stopped and to exit with the signal's usual status."""

    @functools.wraps(command)
    def run(**options: object) -> None:
        try:
            with stoppable_by_signals():  # not before: what has not begun ends at once
                command(**options)
        except KeyboardInterrupt as stop:
            with suppress(OSError):  # the terminal may be gone
                typer.echo(words, err=True)
            raise typer.Exit(128 + getattr(stop, "number", signal.SIGINT)) from None

    return run


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  # the frame is what signal handlers get
    raise Stopped(number)
