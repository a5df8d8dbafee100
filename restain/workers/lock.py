"""A lock on a folder that is released when its process ends for any reason."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from restain.errors import OutputError

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"
"""The lock file in a folder."""
_PATIENCE_S = 1.0
"""Seconds between two attempts to take a lock."""

_held: set[IO[str]] = set()


@contextmanager
def locked(folder: Path, busy: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Create a folder if it is missing, and keep other processes out of it within the context.

    Args:
        folder: what is locked.
        busy: the message for a second process.
        waiting: called once before waiting for the process that has the folder; without it, a second process is
            refused. There is no locking on Windows.

    Raises:
        OutputError: the folder cannot be written, or another process has it.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is not a regular file; remove it, or give another place")
        file = path.open("w")
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to the folder {folder}: {error.strerror}; choose another place") from error
    with file:
        _held.add(file)
        try:
            _take(file, busy, waiting)
            yield
        finally:
            _held.discard(file)


def _take(file: IO[str], busy: str, waiting: Callable[[], None] | None) -> None:
    if sys.platform == "win32":
        return
    told = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if waiting is None:
                raise OutputError(busy) from error
            if not told:
                waiting()
                told = True
            time.sleep(_PATIENCE_S)
        else:
            return


def _leave_to_parent() -> None:
    """Close inherited locks in a forked child, which may outlive this process for a moment."""
    for file in list(_held):
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
