"""Stopping when it suits the work; and locks and helpers that end with the process that they belong to."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from restain.errors import OutputError
from restain.workers.interrupts import answers_kept, postponed
from restain.workers.lock import locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals of POSIX")


def test_a_request_to_stop_waits_until_it_is_answered_and_a_second_one_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with postponed() as stop:
        assert not stop.asked
        stop.answer()
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            stop.answer()
    with postponed() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_a_signal_that_nobody_answers_is_not_postponed() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with postponed() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert not stop.asked
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_library_does_not_take_the_signals_for_itself() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with answers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_holder_is_refused_or_waits_and_the_lock_is_free_again(tmp_path: Path) -> None:
    told = []
    with locked(tmp_path / "new", "busy"):
        with pytest.raises(OutputError, match="busy"):
            locked(tmp_path / "new", "busy").__enter__()

        def end_waiting() -> None:
            told.append(1)
            raise InterruptedError

        with pytest.raises(InterruptedError):
            locked(tmp_path / "new", "busy", end_waiting).__enter__()
    with locked(tmp_path / "new", "busy", lambda: told.append(2)):
        assert told == [1]


HOLDER = """
import os, sys, time
from pathlib import Path
from restain.workers.interrupts import leave_stopping_to_parent
from restain.workers.lock import locked
with locked(Path(sys.argv[1]), "busy"):
    parent = os.getpid()
    if os.fork() == 0:
        leave_stopping_to_parent(parent)
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


def test_a_killed_holder_leaves_neither_its_lock_nor_its_helpers(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    helper = int(holder.stdout.readline())
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(helper, number)
    with pytest.raises(OutputError, match="busy"):
        locked(tmp_path, "busy").__enter__()
    os.kill(helper, 0)
    holder.kill()
    holder.wait()
    with locked(tmp_path, "busy"):
        pass
    for _ in range(100):
        if not _runs(helper):
            break
        time.sleep(0.05)
    assert not _runs(helper)


def _runs(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
