"""Processes of their own: one that fails or dies is reported, and the others go on."""

import os
import signal
from pathlib import Path

from rich.console import Console

from restain.bench.units import Unit, UnitProgress, run_units
from restain.errors import InputError
from restain.workers.pool import Processes


def well(path: Path, console: Console | None) -> None:
    path.write_text(str(os.getpid()))


def badly(console: Console | None) -> None:
    raise InputError("the tile is torn")


def dying(console: Console | None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_failures_are_told_apart_and_the_rest_is_done(tmp_path: Path) -> None:
    units = [
        Unit("first", well, (tmp_path / "first",)),
        Unit("torn", badly, ()),
        Unit("dead", dying, ()),
        Unit("last", well, (tmp_path / "last",)),
    ]
    progress = UnitProgress(None, len(units))
    failures = run_units(units, Processes(2, attempts=1), progress)
    assert failures.keys() == {"torn", "dead"}
    assert failures["torn"] == "the tile is torn"
    assert "signal 9" in failures["dead"]
    assert progress.done == 4
    pids = {(tmp_path / name).read_text() for name in ("first", "last")}
    assert len(pids) == 2
    assert str(os.getpid()) not in pids
