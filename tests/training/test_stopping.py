"""A training that is asked to stop saves its state first; one that is killed leaves no process and no lock behind."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from restain.checkpoint import read_info
from restain.errors import OutputError
from restain.training import Recipe, fit, train
from restain.training.folder import claimed
from restain.training.state import read_saved
from tests.forked import Forked, begin_command

Small = Callable[..., Recipe]
Write = Callable[..., Path]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends signals of POSIX")


def test_asked_to_stop_it_ends_its_step_and_saves_and_the_log_does_not_tell(
    small: Small, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("cut", training={"steps": 7, "log_every_steps": 3, "save_every_steps": 100})
    expected = read_info(train(recipe, tiles, tmp_path / "whole")).sha256
    rate_factor, out, asked = fit.rate_factor, tmp_path / "stopped", [0, 2, 4]

    def factor(step: int, *given: int) -> float:
        if step in asked:
            asked.remove(step)
            signal.raise_signal(signal.SIGINT)
        return rate_factor(step, *given)

    monkeypatch.setattr(fit, "rate_factor", factor)
    for done in (1, 3, 5):
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tiles, out)
        assert read_saved(out / "state.pt").done == done
    assert read_info(train(recipe, tiles, out)).sha256 == expected
    assert (out / "losses.jsonl").read_text() == (tmp_path / "whole" / "losses.jsonl").read_text()


def test_neither_a_signal_to_all_its_processes_nor_a_kill_leaves_anything_behind(
    write_recipe: Write, tiles: Path, warm: None, tmp_path: Path
) -> None:
    recipe = write_recipe("reconstruct", training={"steps": 4000, "save_every_steps": 3}, data={"loaders": 2})
    out = tmp_path / "run"

    def start(beyond: int) -> Forked:
        process = begin_command(["train", recipe, "--data", tiles, "--out", out], tmp_path / "told")
        while process.poll() is None and read_saved(out / "state.pt").done <= beyond:
            time.sleep(0.03)
        return process

    first = start(0)
    os.killpg(first.pid, signal.SIGTERM)
    assert first.wait() == 128 + signal.SIGTERM
    assert "run the same command to resume" in first.told
    assert not first.members()

    second = start(read_saved(out / "state.pt").done)
    assert len(second.members()) == 3, "itself and two loaders"
    os.kill(second.pid, signal.SIGKILL)
    second.wait()
    with claimed(out):  # the lock is free at once
        pass
    for _ in range(60):
        if not second.members():
            break
        time.sleep(0.05)
    assert not second.members()


def test_the_same_command_twice_at_once_is_one_training(small: Small, tiles: Path, tmp_path: Path) -> None:
    with claimed(tmp_path / "run"), pytest.raises(OutputError, match=r"another process is training in .*run"):
        train(small("reconstruct"), tiles, tmp_path / "run")
    assert train(small("reconstruct"), tiles, tmp_path / "run").is_file()


def test_a_model_that_another_process_trains_is_waited_for(
    small: Small, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is killed before it has begun, so this one takes over."""
    recipe = small("pspstain", training={"steps": 1})
    train(recipe, tiles, tmp_path / "first")
    (folder,) = (tmp_path / "auxiliary").glob("segmenter-*")
    trained = read_info(folder / "model.safetensors").sha256
    for name in ("state.pt", "model.safetensors"):
        (folder / name).unlink()
    free = threading.Event()
    held = claimed(folder)
    held.__enter__()

    def wait(_: float) -> None:
        if not free.is_set():
            held.__exit__(None, None, None)
        free.set()

    monkeypatch.setattr("restain.workers.lock.time.sleep", wait)
    train(recipe, tiles, tmp_path / "second")
    assert free.is_set()
    assert read_info(folder / "model.safetensors").sha256 == trained
