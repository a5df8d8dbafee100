"""Work in a fork of the tests' process, which has imported everything: seconds less than a process that begins anew."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from restain.cli import main
from restain.workers.interrupts import SIGNALS


@dataclass
class Forked:
    """A process of ours, the first of a process group of its own."""

    pid: int
    log: Path
    code: int | None = None
    """Once it has ended; negative for a signal."""

    @property
    def told(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def poll(self) -> int | None:
        """Its status, None while it runs."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code

    def wait(self, seconds: float = 120) -> int:
        """Its status, once it has ended; it is killed where it takes longer."""
        limit = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > limit:
                self.kill_all()
            time.sleep(0.005)
        assert self.code is not None
        return self.code

    def kill_all(self) -> None:
        """Kill it and its own processes, and wait for their end."""
        while self.poll() is None or self.members():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.005)

    def members(self) -> list[int]:
        """What runs of it and its own processes."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.pid and fields[0] != "Z":
                    found.append(int(folder.name))
        return found


def begin(work: Callable[[], object], log: Path) -> Forked:
    """Begin work in a fork, which says all that it says to a file and answers signals as a new process does."""
    pid = os.fork()
    if pid:
        return Forked(pid, log)
    code = 1
    try:
        os.setpgid(0, 0)  # no session: the system would share out its time by sessions
        descriptor, nothing = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(source, target)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        work()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)  # noqa: T201  # as Python does
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def begin_command(words: Iterable[object], log: Path) -> Forked:
    """Begin a command, as `restain` with these words."""
    arguments = ["restain", *map(str, words)]

    def command() -> None:
        sys.argv = arguments
        main()

    return begin(command, log)
