"""Tries a slide in a separate process first, because some damaged headers make OpenSlide abort its process.

The process is started once for all slides. It opens a slide and reads a pixel of every level, which uses the whole
header. Ordinary errors are ignored here, because they are raised again when the slide is opened.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from restain.errors import InputError

PATIENCE_S = 60
"""Time for one slide; what takes longer waits for a pipe or a device that the slide names."""
_MOST_MEMORY_BYTES = 2**32
_MOST_LEVELS = 64

_lock = threading.Lock()
_helpers: list["subprocess.Popen[str]"] = []
"""The one of this process, once it has begun."""


def probe(path: Path) -> None:
    """See that OpenSlide neither crashes nor waits for ever when it reads a slide. Where no process can start, nothing.

    Raises:
        InputError: it does.
    """
    with _lock:
        try:
            helper = _helper()
        except (OSError, TypeError):  # no Python to start
            return
        answer = ""
        with suppress(OSError):
            print(json.dumps(os.fspath(path.absolute())), file=helper.stdin, flush=True)
            answer = helper.stdout.readline() if helper.stdout else ""
        if not answer:
            code = _end()
    if not answer and code < 0:  # else the process could not do its work, for which the slide is not to blame
        patience = -code == getattr(signal, "SIGALRM", None)
        why = f"takes more than {PATIENCE_S} s" if patience else f"ends its process (signal {-code})"
        raise InputError(f"{path} cannot be read as a slide: OpenSlide {why} at it; it is damaged, copy it again")


def _helper() -> "subprocess.Popen[str]":
    process = _helpers[0] if _helpers else None
    if process is None or process.poll() is not None:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "restain.slides.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            process_group=0,  # Ctrl-C is for its parent, with which it ends
        )
        _helpers[:] = [process]
    return process


def _end() -> int:
    """End the helper, if there is one, and give its status."""
    if not _helpers:
        return 0
    helper = _helpers.pop()
    with suppress(OSError):
        helper.communicate()
    return helper.wait()


def _begin_anew() -> None:
    """In a forked process: leave the helper to the parent, with which it ends, and have none yet."""
    global _lock
    _lock = threading.Lock()
    for helper in _helpers:
        for pipe in (helper.stdin, helper.stdout):
            if pipe:
                pipe.close()
    _helpers.clear()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def _serve() -> None:
    """In the process of its own: look at each slide that is named, until nobody is there to name one."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        if hasattr(signal, "alarm"):
            signal.alarm(PATIENCE_S)  # it ends the process, which may be waiting for a file
        with suppress(Exception):
            _look(json.loads(line))
        if hasattr(signal, "alarm"):
            signal.alarm(0)
        print("looked", file=answers, flush=True)


def _look(path: str) -> None:
    import openslide

    with openslide.OpenSlide(path) as slide:
        width, height = slide.dimensions
        for level in range(min(slide.level_count, _MOST_LEVELS)):
            for x, y in ((0, 0), (width // 2, height // 2), (width - 1, height - 1)):
                with suppress(openslide.OpenSlideError):
                    slide.read_region((x, y), level, (1, 1))


if __name__ == "__main__":
    _serve()
