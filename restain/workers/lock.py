"""One process at a time: a lock on a folder that ends with the process that holds it, however that ends."""

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
"""The file in a folder whose lock is taken."""
_PATIENCE_S = 1.0
"""Time between two looks at a lock that is waited for."""

_held: set[IO[str]] = set()


@contextmanager
def locked(folder: Path, busy: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Make a folder where it is missing, and keep other processes out of it while the context lasts.

    Args:
        folder: what is locked.
        busy: the sentence for whoever comes second.
        waiting: called once before waiting for a process that is in the folder; without it, a second process is
            refused. Locks of Windows are not known here: there, nobody is kept out.

    Raises:
        OutputError: the folder cannot be written, or another process is in it.
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
    """Close inherited locks in a forked child: it may live on for a moment when this process was killed."""
    for file in list(_held):
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
