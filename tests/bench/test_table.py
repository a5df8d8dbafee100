"""Means over seeds, Student's interval, differences seed by seed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from restain.bench.cell import Cell, Judging
from restain.bench.page import as_json, as_markdown
from restain.bench.rows import Budget, Row
from restain.bench.table import BenchTable, Spread, collect
from restain.errors import InputError
from restain.training import load_recipe

numbers = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=6)


@given(numbers)
def test_the_interval_is_students(values: list[float]) -> None:
    spread = Spread(tuple(values))
    assert spread.mean == pytest.approx(np.mean(values))
    if np.std(values) > 1e-6 * np.max(np.abs(values)):  # nearer to constant, neither side has digits left
        low, _ = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert spread.mean - spread.half_width == pytest.approx(low, rel=1e-6, abs=1e-6)


def test_one_seed_has_no_interval_and_none_has_no_mean() -> None:
    assert math.isnan(Spread((0.5,)).half_width)
    assert Spread((0.5,)).words() == "0.500"
    assert Spread(()).words() == "–"
    assert Spread((0.25, 0.25)).words("+") == "+0.250 ± 0.000"


@pytest.fixture
def cells(tmp_path: Path) -> list[Cell]:
    """Two rows, three seeds; the last cell of the second row has no result."""
    recipe = load_recipe("cut-tiny")
    judging = Judging(tmp_path, tmp_path)
    made = [
        Cell(row, seed, recipe, tmp_path, tmp_path / "run", tmp_path / f"{row}-{seed}", Budget(), judging, "cpu")
        for row in ("base", "ours")
        for seed in range(3)
    ]
    for cell in made[:-1]:
        write(cell, {"base": 0.5, "ours": 0.6}[cell.row] + cell.seed)
    return made


def write(cell: Cell, value: float | None, fingerprint: str = "aa", missing: tuple[int, ...] = ()) -> None:
    from restain.bench.cell import RESULT, _settings

    figure = {
        "label": "Dice",
        "unit": "",
        "higher_is_better": True,
        "value": value,
        "fingerprint": fingerprint,
        "protocol": {"tiles": 7},
        "missing": missing,
    }
    training = {"steps": 10, "pairs": 20, "seconds": 60.0, "peak_bytes": 2**20}
    cell.out.mkdir(exist_ok=True)
    content = {
        "recipe": _settings(cell.recipe),
        "training": training,
        "auxiliary_seconds": 0.0,
        "figures": {"dice": figure},
        "left out": ["no weights", *(f"no value in tile {place}" for place in missing)],
    }
    (cell.out / RESULT).write_text(json.dumps(content))


def table(cells: list[Cell]) -> BenchTable:
    return collect([Row("base", Path()), Row("ours", Path())], cells, [], "base", Budget(steps=10))


def test_differences_are_taken_seed_by_seed_over_the_seeds_that_both_have(cells: list[Cell]) -> None:
    """The seeds differ by 1, the rows by 0.1 in each: only a paired difference sees it."""
    base, ours = table(cells).lines
    assert base.figures["dice"].values == (0.5, 1.5, 2.5)
    assert ours.figures["dice"].values == pytest.approx((0.6, 1.6))
    assert ours.differences["dice"].values == pytest.approx((0.1, 0.1))
    assert ours.clearly("dice", table(cells).columns["dice"]) == "better"
    assert not base.differences


def test_worse_is_said_by_the_direction_of_the_metric(cells: list[Cell]) -> None:
    for cell in cells[3:5]:
        write(cell, 0.2 + cell.seed)
    found = table(cells)
    assert found.lines[1].clearly("dice", found.columns["dice"]) == "worse"


def test_an_unclear_difference_and_a_single_seed_are_neither(cells: list[Cell]) -> None:
    write(cells[3], 5.0)
    assert table(cells).lines[1].clearly("dice", table(cells).columns["dice"]) == ""
    alone = [cells[0], cells[3]]
    assert table(alone).lines[1].clearly("dice", table(alone).columns["dice"]) == ""


def test_there_is_no_difference_where_other_tiles_count(cells: list[Cell]) -> None:
    write(cells[3], 0.9, missing=(2,))
    write(cells[4], 1.9)
    found = table(cells)
    assert math.isnan(found.lines[1].differences["dice"].values[0])
    assert found.lines[1].differences["dice"].values[1] == pytest.approx(0.4)
    assert found.lines[1].clearly("dice", found.columns["dice"]) == ""
    assert found.notes == ("no weights", "ours, seed 0: no value in tile 2")
    write(cells[0], 0.5, missing=(2,))
    assert table(cells).lines[1].differences["dice"].values == pytest.approx((0.4, 0.4))


def test_a_seed_whose_time_is_lost_leaves_the_others(cells: list[Cell]) -> None:
    """A kill between the last step and the note on the training."""
    path = cells[1].out / "result.json"
    content = json.loads(path.read_text())
    content["training"]["seconds"] = content["auxiliary_seconds"] = math.nan
    path.write_text(json.dumps(content))
    for cell in cells[3:5]:
        path = cell.out / "result.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | {"training": content["training"] | {"seconds": math.nan}}))
    found = table(cells)
    seconds = as_json(found, {})["rows"]["base"]["seconds"]
    assert (seconds["values"], seconds["mean"]) == ([60, None, 60], 60)
    assert "| base | 3 | 10 | 20 | 1.0 min | 0.0 min | 1 MiB |" in as_markdown(found, {})
    assert "| ours | 2 | 10 | 20 | – | none | 1 MiB |" in as_markdown(found, {})


def test_figures_of_another_protocol_are_refused(cells: list[Cell]) -> None:
    write(cells[4], 0.1, fingerprint="bb")
    with pytest.raises(InputError, match="another protocol"):
        table(cells)


def test_what_is_not_finite_is_null_in_json_and_a_dash_in_words(cells: list[Cell]) -> None:
    for cell in cells[3:5]:
        write(cell, None)
    found = table(cells)
    content = json.loads(json.dumps(as_json(found, {"ours, seed 2": "why"}), allow_nan=False))
    assert content["rows"]["ours"]["figures"]["dice"]["mean"] is None
    assert content["failures"] == {"ours, seed 2": "why"}
    markdown = as_markdown(found, {})
    assert "| ours | – |" in markdown
    assert "| base | 1.500 ± 2.484 |" in markdown
    assert "N = 7 tiles; 10 steps" in markdown
    assert "Left out: no weights" in markdown
