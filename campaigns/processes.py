"""What the campaigns share: `restain` run in children of a warm process, watched, stopped at any moment, and compared.

A campaign runs hundreds of commands. Each is a fork of this process, in which everything is imported already, in a
session of its own with its own temporary folder.
"""

import atexit
import hashlib
import importlib
import os
import pkgutil
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import restain

MOST_CPU_S, MOST_IDLE_S = 30.0, 90.0
"""What works longer than this, or does nothing for longer, counts as hanging, however loaded the machine is."""
MOST_MB = 2048
_PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20
_TICKS = os.sysconf("SC_CLK_TCK")


def warm_up() -> None:
    """Import everything that commands import, without starting a thread of torch's."""
    import torch

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(restain.__path__, "restain."):
        if "__main__" not in module.name:
            with suppress(ImportError):
                importlib.import_module(module.name)
    for name in ("openslide", "tifffile", "zarr", "rich.progress", "skimage", "scipy.ndimage", "matplotlib.pyplot"):
        with suppress(ImportError):
            importlib.import_module(name)
    torch.optim.SGD([torch.zeros(1)], lr=0.0)  # the first optimiser imports the compiler


@dataclass
class Run:
    """A command that runs, or has run."""

    pid: int
    log: Path
    scratch: Path
    """Its temporary folder."""
    began: float
    code: int | None = None
    """As of a shell: 128 and more for a signal."""
    peak_mb: float = 0.0
    cpu_s: float = 0.0
    why: str = ""
    """Why it was ended: `hang` or `memory`."""

    @property
    def told(self) -> str:
        """What it has said."""
        return self.log.read_text(errors="replace")

    def poll(self) -> bool:
        """Look at it; whether it has ended."""
        if self.code is not None:
            return True
        pid, status, used = os.wait4(self.pid, os.WNOHANG)
        if pid:
            self.cpu_s = used.ru_utime + used.ru_stime
            self.code = os.waitstatus_to_exitcode(status)
            self.code = 128 - self.code if self.code < 0 else self.code
            return True
        with suppress(OSError, IndexError):
            self.peak_mb = max(self.peak_mb, int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE)
        return False

    def wait(self) -> "Run":
        """Wait for its end, and end it where it takes too much time or memory."""
        worked, since = 0.0, time.monotonic()
        while not self.poll():
            if (now := _cpu_s(self.pid)) != worked:
                worked, since = now, time.monotonic()
            if self.peak_mb > MOST_MB:
                self.end("memory")
            elif worked > MOST_CPU_S or time.monotonic() - since > MOST_IDLE_S:
                self.end("hang")
            time.sleep(0.01)
        return self

    def end(self, why: str) -> None:
        """Kill it with all that it has started."""
        self.why = self.why or why
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def stop(self, number: int, *, group: bool = False) -> None:
        """Send it a signal, or all of its processes."""
        with suppress(OSError):
            (os.killpg if group else os.kill)(self.pid, number)


def start(
    words: Iterable[object], folder: Path, *, inside: Path | None = None, most_file_bytes: int | None = None
) -> Run:
    """Start a command in a folder.

    Args:
        words: after `restain`.
        folder: where it runs; its output and its temporary folder are kept beside it.
        inside: where it runs instead, beside another one.
        most_file_bytes: where a disk would be full: no file grows beyond.
    """
    arguments = ["restain", *map(str, words)]
    place = folder.with_name(f"{folder.name}.aside")
    scratch, log = place / "tmp", place / "log"
    scratch.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        _be(arguments, inside or folder, scratch, log, most_file_bytes)
    return Run(pid, log, scratch, time.monotonic())


def _be(arguments: list[str], folder: Path, scratch: Path, log: Path, most_file_bytes: int | None) -> None:
    """In the child: be the command."""
    code = 1
    try:
        atexit._clear()  # what the parent would tidy up at its end is not for this one
        os.setsid()
        os.chdir(folder)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(source, target)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        os.environ.update(TMPDIR=str(scratch), OMP_NUM_THREADS="1", COLUMNS="200", RESTAIN_CAMPAIGN="1")
        tempfile.tempdir, sys.argv = None, arguments
        if most_file_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_file_bytes, most_file_bytes))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        from restain.cli import main

        main()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run(words: Iterable[object], folder: Path) -> Run:
    """Run a command to its end, which must be good.

    Raises:
        RuntimeError: it was not.
    """
    ended = start(words, folder).wait()
    if ended.code != 0:
        raise RuntimeError(f"restain {' '.join(map(str, words))}: {ended.code} {ended.why}\n{ended.told}")
    return ended


def members(session: int) -> list[int]:
    """The processes of a session that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def orphans(ended: Run, patience_s: float = 5.0) -> list[str]:
    """What still runs of a command that has ended, a moment later."""
    limit = time.monotonic() + patience_s
    while (left := members(ended.pid)) and time.monotonic() < limit:
        time.sleep(0.05)
    return [f"process {pid} still runs" for pid in left]


def litter(folder: Path) -> list[str]:
    """Files that only an unfinished piece of work may leave: temporary ones and spools."""
    names = [path for path in folder.rglob("*") if path.name.endswith(".spool") or _is_temporary(path.name)]
    return [f"left behind: {path.relative_to(folder)}" for path in names]


def _is_temporary(name: str) -> bool:
    stem = name[1:].partition(".")[0]
    return name.startswith(".") and len(stem) == 16 and all(letter in "0123456789abcdef" for letter in stem)


def contents(folder: Path) -> dict[str, str]:
    """The hash of every file below a folder by its name; folders that are linked are not entered."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def _cpu_s(pid: int) -> float:
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0
