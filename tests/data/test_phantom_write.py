import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from restain.cli import app
from restain.data.pairs import PairedTiles
from restain.data.phantom import GRADE_LIMITS, PhantomSettings, draw_pair, write_pairs
from restain.errors import ConfigError, OutputError
from restain.image import load_image
from restain.randomness import derive_seed

SMALL = PhantomSettings(size_px=64)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phantom") / "pairs"
    write_pairs(out, 4, validation=1, seed=5, settings=SMALL)
    return out


def test_folders_and_names(written: Path) -> None:
    base = written / "TrainValAB"
    names = {split: sorted(path.stem for path in (base / f"{split}A").iterdir()) for split in ("train", "val")}
    assert [name[:5] for name in names["train"]] == ["0000_", "0001_", "0002_"]
    assert [name[:5] for name in names["val"]] == ["0003_"]
    for split, stems in names.items():
        for side in ("B", "B_aligned"):
            assert sorted(path.stem for path in (base / f"{split}{side}").glob("*.png")) == stems
    everything = names["train"] + names["val"]
    assert sorted(path.name for path in (base / "displacement").iterdir()) == [f"{name}.npy" for name in everything]
    assert sorted(path.name for path in (base / "cells").iterdir()) == [f"{name}.json" for name in everything]
    assert json.loads((written / "phantom.json").read_text())["marker"] == "membrane"


def test_files_hold_what_was_drawn(written: Path) -> None:
    pair = draw_pair(derive_seed(5, "phantom", "pair", 3), SMALL)
    name, base = f"0003_{pair.grade}+", written / "TrainValAB"
    for side, image in (("valA", pair.he), ("valB", pair.ihc), ("valB_aligned", pair.ihc_aligned)):
        np.testing.assert_array_equal(load_image(base / side / f"{name}.png"), image)
    np.testing.assert_array_equal(np.load(base / "displacement" / f"{name}.npy"), pair.displacement)
    truth = json.loads((base / "cells" / f"{name}.json").read_text())
    assert truth["cells"] == pair.cells.records()
    assert truth["grade"] == sum(truth["positive_fraction"] >= limit for limit in GRADE_LIMITS)


def test_the_folder_is_a_paired_data_set(written: Path) -> None:
    tiles = PairedTiles(written, "train", crop_px=None, seed=0, augment=None)
    assert len(tiles) == 3
    assert [name[-2] for name in tiles.names] == [str(int(tiles.item(index, 0).grade)) for index in range(3)]


def test_the_same_seed_writes_the_same_files(written: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_pairs(tmp_path, 4, validation=1, seed=5, settings=SMALL, on_progress=lambda *counts: calls.append(counts))
    assert _contents(tmp_path) == _contents(written)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_more_pairs_begin_with_the_same_ones(written: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path, 2, validation=0, seed=5, settings=SMALL)
    assert not (tmp_path / "TrainValAB" / "valA").exists()
    old, new = _contents(written / "TrainValAB" / "trainB"), _contents(tmp_path / "TrainValAB" / "trainB")
    assert new.items() <= old.items()


def test_used_folders_and_files_are_refused(written: Path, tmp_path: Path) -> None:
    before = _contents(written)
    with pytest.raises(OutputError, match="not empty"):
        write_pairs(written, 1, validation=0, settings=SMALL)
    assert _contents(written) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        write_pairs(tmp_path / "file", 1, validation=0, settings=SMALL)


def test_impossible_counts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="3 for validation"):
        write_pairs(tmp_path / "out", 2, validation=3, settings=SMALL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("validation", "held_out"), [("0.25", 1), ("2", 2), ("0", 0)])
def test_the_command_says_where_the_pairs_are(tmp_path: Path, validation: str, held_out: int) -> None:
    arguments = ["phantom", str(tmp_path / "out"), "--pairs", "3", "--size", "64", "--validation", validation]
    result = CliRunner().invoke(app, [*arguments, "--marker", "nuclear"])
    assert result.exit_code == 0, result.output
    assert f"TrainValAB holds {3 - held_out} pairs to train and {held_out} to validate" in result.output
    val = tmp_path / "out" / "TrainValAB" / "valA"
    assert len(list(val.glob("*.png"))) == held_out


def test_the_command_refuses_half_a_pair(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["phantom", str(tmp_path), "--pairs", "3", "--validation", "1.5"])
    assert isinstance(result.exception, ConfigError)
    assert "whole number" in str(result.exception)
