"""`restain train` as a user meets it."""

import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from restain.cli import main
from restain.image import save_image

RECIPE = "reconstruct-tiny"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pairs of grey tiles."""
    for index in range(2):
        for side in ("he", "ihc"):
            save_image(tmp_path / "pairs" / side / f"{index}.png", np.full((64, 64, 3), 100 + index, np.uint8))
    return tmp_path / "pairs"


def status(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["restain", "train", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert isinstance(stop.value.code, int)
    return stop.value.code


def test_it_tells_what_it_found_how_far_it_is_and_where_the_result_is(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = data.parent / "run"
    settings = ("--set", "model.width=2", "--set", "training.log_every_steps=1")
    assert status(monkeypatch, RECIPE, "--data", data, "--out", out, *settings, "--steps", 2) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out / 'model.safetensors'}\n"
    for words in ("2 pairs of 64 x 64 px", "run  1/2", "autoencoder/l2", "left"):
        assert words in printed.err
    assert status(monkeypatch, RECIPE, "--data", data, "--out", out, *settings, "--steps", 2) == 0
    assert "is finished: 2 steps" in capsys.readouterr().err


def test_a_typo_is_one_line_and_status_1(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, RECIPE, "--data", data, "--out", data.parent / "run", "--set", "model.widht=2") == 1
    printed = capsys.readouterr()
    assert printed.err == "restain: --set: unknown key 'widht' in [model]; did you mean 'width'?\n"
    assert not (data.parent / "run").exists()


def test_stopping_by_hand_says_how_to_go_on(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("restain.training.train", Mock(side_effect=KeyboardInterrupt))
    assert status(monkeypatch, RECIPE, "--data", data, "--out", data.parent / "run") == 130
    assert "run the same command to resume" in capsys.readouterr().err
