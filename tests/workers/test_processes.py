"""Helping processes end with the one that started them, and a Ctrl-C is not theirs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import sys, time
from restain.workers.processes import start_process
from tests_child import sleep
if __name__ == "__main__":
    print(start_process(sleep, sys.argv[1]).pid, flush=True)
    time.sleep(60)
"""
CHILD = """
import time
from pathlib import Path
def sleep(sign):
    Path(sign).touch()
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals of POSIX")
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_ends_with_its_parent_and_not_by_ctrl_c(tmp_path: Path, ending: signal.Signals) -> None:
    (tmp_path / "tests_child.py").write_text(CHILD)
    (tmp_path / "parent.py").write_text(PARENT)
    sign = tmp_path / "began"
    parent = subprocess.Popen(
        [sys.executable, tmp_path / "parent.py", sign],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert _within(60, sign.exists)
    os.kill(child, signal.SIGINT)
    time.sleep(0.2)
    assert _runs(child)
    parent.send_signal(ending)
    parent.wait()
    assert _within(20, lambda: not _runs(child))


def _within(seconds: float, condition: object) -> bool:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return bool(condition())


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
