"""How every command answers being stopped: by Ctrl-C, by `kill` or a scheduler, by a terminal that is closed."""

import functools
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import typer

RESUME = "Stopped; run the same command to resume."
AGAIN = "Stopped; nothing is left half-written, run the same command to begin again."


class Stopped(KeyboardInterrupt):
    """A signal that means the same as Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def stoppable_by_signals() -> Iterator[None]:
    """Within the context SIGTERM and SIGHUP raise what Ctrl-C raises; one that is ignored, as under nohup, stays so."""
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
    """The command, which says `words` when it is stopped and ends with the status that shells give to the signal."""

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
