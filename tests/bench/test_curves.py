"""Learning curves: what trainings logged, as means and ranges over seeds."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from restain.bench.cell import Cell, Judging
from restain.bench.curves import draw_curves, read_curves
from restain.bench.rows import Budget
from restain.errors import OutputError
from restain.training import load_recipe


def cell(folder: Path, row: str, seed: int, looks: dict[int, dict[str, float | None]]) -> Cell:
    run = folder / f"{row}-{seed}"
    run.mkdir()
    lines = [json.dumps({"step": step, **figures, "pairs": 4, "against": "it"}) for step, figures in looks.items()]
    (run / "held_out.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Cell(row, seed, load_recipe("cut-tiny"), folder, run, folder, Budget(), Judging(folder, folder), "cpu")


def test_a_curve_is_the_mean_and_range_over_the_seeds_at_each_step(tmp_path: Path) -> None:
    cells = [
        cell(tmp_path, "ours", 0, {10: {"psnr": 12.0, "positive_dice": 0.2}, 20: {"psnr": 14.0, "positive_dice": 0.5}}),
        cell(tmp_path, "ours", 1, {10: {"psnr": 13.0, "positive_dice": None}}),
        cell(tmp_path, "base", 0, {}),
    ]
    curves = read_curves(["base", "ours"], cells)
    assert curves.keys() == {"psnr", "positive_dice"}
    psnr, dice = curves["psnr"]["ours"], curves["positive_dice"]["ours"]
    assert (psnr.steps, psnr.mean, psnr.seeds) == ((10, 20), (12.5, 14.0), (2, 1))
    assert (psnr.lowest, psnr.highest) == ((12.0, 14.0), (13.0, 14.0))
    assert (dice.mean, dice.seeds) == ((0.2, 0.5), (1, 1)), "an undefined figure is left out"
    assert "base" not in curves["psnr"]


def test_the_drawing_names_every_row_and_figure(tmp_path: Path) -> None:
    looks: dict[int, dict[str, float | None]] = {5: {"psnr": 12.0, "kid": 3.0}, 9: {"psnr": 13.0, "kid": 2.0}}
    cells = [cell(tmp_path, name, 0, looks) for name in ("one & only", "two")]
    drawn = draw_curves(read_curves(["one & only", "two"], cells))
    words = {text.strip() for text in ElementTree.fromstring(drawn).itertext() if text.strip()}
    assert {"one & only", "two", "PSNR ↑, dB", "KID × 1000 ↓"} <= words


def test_a_bench_of_many_rows_is_drawn(tmp_path: Path) -> None:
    names = [f"row {number}" for number in range(35)]
    cells = [cell(tmp_path, name, 0, {5: {"psnr": 12.0}, 9: {"psnr": 13.0}}) for name in names]
    drawn = ElementTree.fromstring(draw_curves(read_curves(names, cells)))
    assert set(names) <= {text.strip() for text in drawn.itertext()}


def test_without_evaluation_there_are_no_curves(tmp_path: Path) -> None:
    unlogged = cell(tmp_path, "ours", 0, {})
    (unlogged.run / "held_out.jsonl").unlink()
    assert read_curves(["ours"], [unlogged]) == {}


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    damaged = cell(tmp_path, "ours", 0, {10: {"psnr": 12.0}})
    (damaged.run / "held_out.jsonl").write_text("{", encoding="utf-8")
    with pytest.raises(OutputError, match=r"held_out\.jsonl is damaged"):
        read_curves(["ours"], [damaged])
