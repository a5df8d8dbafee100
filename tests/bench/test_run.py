"""A whole bench on tiny tissue: what it leaves, that it goes on, that it refuses to mix."""

import json
import math
import pickle
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from restain.bench import Budget, Row, run_bench
from restain.bench.cell import Cell, Judging, _limited, _whole, knows_length, work_length
from restain.bench.held_out import gather
from restain.bench.run import _images_key, _take
from restain.bench.units import Unit
from restain.cli import app
from restain.data.phantom import PhantomSettings, write_pairs
from restain.errors import ConfigError, InputError, OutputError
from restain.image import load_image, save_image
from restain.workers.lock import locked
from restain.workers.ray import Cluster
from tests.forked import begin_command

TINY = ("model.width=2", "model.positions=8", "data.crop_px=32", "data.batch_size=1")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pairs")
    write_pairs(root, 6, validation=3, seed=0, settings=PhantomSettings(size_px=64, mpp=1.0))
    return root


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return [
        Row("slow", Path("cut-tiny"), TINY),
        Row("fast", Path("fastcut-tiny"), TINY),
    ]


@pytest.fixture(scope="session")
def bench(pairs: Path, rows: list[Row], warm: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rows, one seed, two cells at a time."""
    out = tmp_path_factory.mktemp("bench") / "out"
    outcome = run_bench(rows, pairs, out, budget=Budget(steps=4), seeds=1, tiles=2, processes=2, device="cpu")
    assert not outcome.failures
    return out


def test_it_leaves_a_table_in_three_forms_with_a_picture_row_per_method(bench: Path) -> None:
    content = json.loads((bench / "table.json").read_text())
    assert list(content["rows"]) == ["slow", "fast"]
    assert content["tiles"] == 2
    assert content["rows"]["fast"]["steps"]["values"] == [4]
    assert content["rows"]["slow"]["figures"]["psnr"]["mean"] > 0
    assert content["rows"]["fast"]["differences"]["psnr"]["values"] == [
        pytest.approx(
            content["rows"]["fast"]["figures"]["psnr"]["mean"] - content["rows"]["slow"]["figures"]["psnr"]["mean"]
        )
    ]
    assert content["rows"]["slow"]["peak_bytes"]["mean"] > 2**20
    assert "| fast |" in (bench / "table.md").read_text()
    assert (bench / "index.html").read_text().count("data:image/jpeg") == 4 * 2


def test_below_the_rows_it_shows_what_takes_no_training(bench: Path, pairs: Path) -> None:
    content = json.loads((bench / "table.json").read_text())["without training"]
    unstained, uniform = content.values()
    assert list(content) == ["the H&E as it is", "the mean colour of the IHC"]
    assert unstained["haematoxylin_r"]["mean"] == pytest.approx(1, abs=1e-4)
    he, real = (sorted((bench / "held-out" / side).iterdir()) for side in ("he", "real"))
    errors = [((load_image(a) / 255.0 - load_image(b) / 255.0) ** 2).mean() for a, b in zip(he, real, strict=True)]
    assert unstained["psnr"]["mean"] == pytest.approx(np.mean(-10 * np.log10(errors)), abs=1e-3)
    colour = np.mean([load_image(path).mean(axis=(0, 1)) for path in (pairs / "TrainValAB/trainB").iterdir()], axis=0)
    errors = [((colour.round() / 255.0 - load_image(path) / 255.0) ** 2).mean() for path in real]
    assert uniform["psnr"]["mean"] == pytest.approx(np.mean(-10 * np.log10(errors)), abs=1e-3)
    assert "| *the mean colour of the IHC* |" in (bench / "table.md").read_text()


def test_what_is_finished_is_not_done_again_and_a_row_can_be_added(bench: Path, pairs: Path, rows: list[Row]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (bench / "cells").rglob("*") if path.is_file()}
    run_bench(rows[:1], pairs, bench, budget=Budget(steps=4), seeds=1, tiles=2, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert list(json.loads((bench / "table.json").read_text())["rows"]) == ["slow"]


def test_another_budget_or_another_recipe_under_a_known_name_is_refused(
    bench: Path, pairs: Path, rows: list[Row]
) -> None:
    with pytest.raises(OutputError, match="a different budget"):
        run_bench(rows, pairs, bench, budget=Budget(steps=5), seeds=1, tiles=2)
    changed = Row("slow", rows[0].recipe, (*TINY, "model.lr=1e-3"))
    with pytest.raises(OutputError, match=r"another recipe \(model.lr"):
        run_bench([changed], pairs, bench, budget=Budget(steps=4), seeds=1, tiles=2)
    with locked(bench, "busy"), pytest.raises(OutputError, match="another bench is running in"):
        run_bench(rows, pairs, bench, budget=Budget(steps=4), seeds=1, tiles=2, device="cpu")


def test_a_training_of_another_recipe_is_not_measured_under_the_new_one(
    bench: Path, pairs: Path, rows: list[Row], tmp_path: Path
) -> None:
    """The bench was stopped between the training and the figures, then the recipe was changed."""
    out = tmp_path / "out"
    shutil.copytree(bench, out)
    (out / "cells/slow-0/result.json").unlink()
    changed = Row("slow", rows[0].recipe, (*TINY, "model.lr=1e-3"))
    outcome = run_bench([changed], pairs, out, budget=Budget(steps=4), seeds=1, tiles=2, device="cpu")
    assert "another recipe" in outcome.failures["slow, seed 0"]
    assert not (out / "cells/slow-0/result.json").exists()
    trained = json.loads((out / "cells/slow-0/trained.json").read_text())
    run_bench(rows[:1], pairs, out, budget=Budget(steps=4), seeds=1, tiles=2, device="cpu")
    assert json.loads((out / "cells/slow-0/result.json").read_text())["training"] == trained


def test_images_that_have_changed_since_are_refused(pairs: Path, tmp_path: Path) -> None:
    """Finished rows were trained on and compared with other ones."""
    data, truth, out = tmp_path / "data", tmp_path / "truth", tmp_path / "out"
    shutil.copytree(pairs, data)
    shutil.copytree(pairs / "TrainValAB/valB_aligned", truth)
    what = {"data": str(data), "budget": "4 steps", "truth": str(truth)}
    _take(out, what, _images_key(data, truth))
    _take(out, what, _images_key(data, truth))
    for changed in (next(truth.iterdir()), next((data / "TrainValAB/trainB").iterdir())):
        before = changed.read_bytes()
        save_image(changed, 255 - load_image(changed))
        with pytest.raises(OutputError, match=r"images in .* have changed"):
            _take(out, what, _images_key(data, truth))
        changed.write_bytes(before)
    _take(out, what, _images_key(data, truth))


def test_an_extractor_that_comes_later_is_refused(bench: Path, pairs: Path, rows: list[Row], tmp_path: Path) -> None:
    """What is finished would not be measured by it."""
    extractors = [("package:Net", tmp_path / "net.pth")]
    with pytest.raises(OutputError, match=r"a different extractor \(None, now package:Net=.*net.pth\)"):
        run_bench(rows, pairs, bench, budget=Budget(steps=4), seeds=1, tiles=2, extractors=extractors)


def test_a_bench_from_before_extractors_were_noted_goes_on(bench: Path, pairs: Path, rows: list[Row]) -> None:
    note = bench / "bench.json"
    before = json.loads(note.read_text())
    note.write_text(json.dumps({key: value for key, value in before.items() if key not in ("extractor", "images")}))
    run_bench(rows, pairs, bench, budget=Budget(steps=4), seeds=1, tiles=2, device="cpu")
    note.write_text(json.dumps(before))


def test_what_a_kill_left_unfinished_is_no_obstacle_and_is_removed(
    pairs: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "out/.0123456789abcdef.json"
    left.parent.mkdir()
    left.write_text("{")

    def refuse(*_: object) -> None:
        assert not left.exists()
        raise InputError("enough")

    monkeypatch.setattr("restain.bench.run.gather", refuse)
    with pytest.raises(InputError, match="enough"):
        run_bench(rows, pairs, tmp_path / "out")


def test_a_wrong_recipe_is_refused_before_anything_is_written(pairs: Path, rows: list[Row], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="widht"):
        run_bench([Row("x", rows[0].recipe, ("model.widht=3",))], pairs, tmp_path / "out")
    with pytest.raises(InputError, match="is not a row"):
        run_bench(rows, pairs, tmp_path / "out", reference="other")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(pairs: Path, rows: list[Row], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty and not a bench"):
        run_bench(rows, pairs, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_killed_it_goes_on_and_ends_with_the_same_figures(
    bench: Path, pairs: Path, rows: list[Row], warm: None, tmp_path: Path
) -> None:
    """SIGKILL for the bench and its children as soon as the first training has saved a state."""
    out = tmp_path / "out"
    words = ["bench", f"slow={rows[0].recipe},{','.join(TINY)}", "--data", pairs, "--out", out, "--budget", "steps=4"]
    process = begin_command([*words, "--seeds", 1, "--tiles", 2, "--device", "cpu"], tmp_path / "told")
    state = out / "runs/slow-0/state.pt"
    while not state.is_file() and process.poll() is None:
        time.sleep(0.01)
    process.kill_all()
    assert process.wait() < 0
    assert state.is_file()
    assert not run_bench(rows[:1], pairs, out, budget=Budget(steps=4), seeds=1, tiles=2, device="cpu").failures
    ours = json.loads((out / "table.json").read_text())["rows"]["slow"]["figures"]
    whole = json.loads((bench / "cells/slow-0/result.json").read_text())["figures"]
    assert {name: figure["mean"] for name, figure in ours.items()} == {
        name: figure["value"] for name, figure in whole.items()
    }


class LikeRay:
    """As much of Ray as a `Cluster` uses: what is sent and comes back is copied, and tasks run when one is waited for.

    Ray itself is in `tests/workers/test_ray.py` and `tests/staining/test_ray.py`; a cluster takes seconds to begin.
    """

    def remote(self, **_: object) -> Callable[..., SimpleNamespace]:
        return lambda work: SimpleNamespace(remote=lambda *given: pickle.dumps((work, given)))

    def wait(self, tasks: list[bytes], num_returns: int) -> tuple[list[bytes], list[bytes]]:
        return tasks[:num_returns], tasks[num_returns:]

    def get(self, task: bytes) -> object:
        work, given = pickle.loads(task)
        return pickle.loads(pickle.dumps(work(*given)))


def test_on_ray_it_comes_to_the_same(
    bench: Path, pairs: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the cells is done again."""
    cluster = Cluster(LikeRay(), 1, "cpu")
    out, budget = tmp_path / "out", Budget(steps=4)
    shutil.copytree(bench, out)
    shutil.rmtree(out / "cells/slow-0")
    shutil.rmtree(out / "runs/slow-0")
    monkeypatch.setattr("restain.bench.run.connected", lambda *given: nullcontext(cluster))
    outcome = run_bench(rows, pairs, out, budget=budget, seeds=1, tiles=2, device="cpu", ray="local")
    assert not outcome.failures
    ours, locally = (json.loads((folder / "cells/slow-0/result.json").read_text()) for folder in (out, bench))
    assert ours["training"]["seconds"] != locally["training"]["seconds"]
    for key, figure in locally["figures"].items():
        assert ours["figures"][key]["value"] == pytest.approx(figure["value"], rel=1e-4, abs=1e-4)


def test_minutes_become_steps_once_per_row(pairs: Path, rows: list[Row], tmp_path: Path) -> None:
    """All seeds take the same; what a killed timing left is swept away."""
    out, options = tmp_path / "out", {"budget": Budget(minutes=0.02), "tiles": 2, "device": "cpu"}
    first = run_bench(rows[:1], pairs, out, seeds=1, **options)
    (out / "runs/.probe-torn").mkdir()
    (out / "runs/.probe-torn/state.pt").write_bytes(b"half")
    note = out / "cells/slow-length.json"
    written = note.stat().st_mtime_ns
    outcome = run_bench(rows[:1], pairs, out, seeds=2, processes=2, **options)
    assert not first.failures | outcome.failures
    steps = outcome.table.lines[0].steps.values
    assert steps[0] == steps[1] == json.loads(note.read_text())["steps"] > 1
    assert note.stat().st_mtime_ns == written
    assert not list((out / "runs").glob(".probe*"))


def minutes(row: Row, seed: int, pairs: Path, out: Path) -> Cell:
    judging, budget = Judging(out, out), Budget(minutes=1)
    recipe = row.load(seed)
    return Cell("x", seed, recipe, pairs, out / "runs/x", out, budget, judging, "cpu", length=out / "x-length.json")


def test_what_the_first_training_of_a_process_takes_longer_is_not_counted(
    pairs: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = iter((0.4, 0.1, 0.18))
    monkeypatch.setattr("restain.bench.cell.train", lambda *_, **__: time.sleep(next(waits)))
    cell = minutes(rows[0], 0, pairs, tmp_path)
    work_length(cell, None)
    assert 1000 < (_limited(cell).training.steps or 0) < 20000


def test_the_steps_of_another_seed_are_known_and_of_another_recipe_are_not(
    pairs: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("restain.bench.cell.train", lambda *_, **__: None)
    assert not knows_length(minutes(rows[0], 0, pairs, tmp_path))
    work_length(minutes(rows[0], 0, pairs, tmp_path), None)
    assert knows_length(minutes(rows[0], 1, pairs, tmp_path))
    assert not knows_length(minutes(rows[1], 0, pairs, tmp_path))


def test_what_needs_a_model_that_failed_is_not_begun(
    pairs: Path, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each cell would train it again, and fail again."""
    begun = list[str]()

    def all_models_fail(units: Sequence[Unit], *_: object, **__: object) -> dict[str, str]:
        begun.extend(unit.words for unit in units)
        return {unit.words: "no memory" for unit in units if unit.words.startswith("auxiliary model ihc_classifier")}

    monkeypatch.setattr("restain.bench.run.run_units", all_models_fail)
    guided = Row("guided", Path("vsmt-tiny"))
    outcome = run_bench([guided, rows[0]], pairs, tmp_path / "out", budget=Budget(minutes=1), seeds=2, device="cpu")
    assert [words for words in begun if "guided" in words] == []
    assert {"length of slow", "slow, seed 0", "slow, seed 1"} < set(begun)
    for seed in range(2):
        assert outcome.failures[f"guided, seed {seed}"].startswith("not begun, because auxiliary model ihc_classifier-")


def test_a_row_that_fails_is_told_and_the_others_are_in_the_table(
    pairs: Path, rows: list[Row], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = f"bad={rows[0].recipe},{','.join(TINY)},model.lr=1e30"
    good = f"good={rows[1].recipe},{','.join(TINY)}"
    arguments = ["--data", str(pairs), "--out", str(tmp_path / "out"), "--budget", "steps=3", "--seeds", "1"]
    with pytest.raises(SystemExit) as ended:
        app(["bench", bad, good, *arguments, "--tiles", "2", "--device", "cpu"])
    assert ended.value.code == 1
    table = (tmp_path / "out/table.md").read_text()
    assert "| bad | none | – | – | – | – | – |" in table
    assert "| good | 1 | 3 | 3 |" in table
    assert "Failed: bad, seed 0: " in table
    assert "Failed: bad, seed 0: " in capsys.readouterr().out


def test_the_truth_takes_the_place_of_the_neighbouring_section(pairs: Path, tmp_path: Path) -> None:
    folder = pairs / "TrainValAB"
    judging = gather(pairs, tmp_path, folder / "valB_aligned", None, ())
    for path in sorted((folder / "valA").iterdir()):
        assert (load_image(judging.he / path.name) == load_image(path)).all()
        assert (load_image(judging.real / path.name) == load_image(folder / "valB_aligned" / path.name)).all()


def test_images_that_show_both_sides_are_cut(pairs: Path, tmp_path: Path) -> None:
    folder = pairs / "TrainValAB"
    both = tmp_path / "both"
    for part in ("train", "val"):
        for path in sorted((folder / f"{part}A").iterdir()):
            left, right = load_image(path), load_image(folder / f"{part}B" / path.name)
            save_image(both / part / path.name, np.concatenate([left, right], axis=1))
    judging = gather(both, tmp_path / "held-out", None, 2, ())
    names = sorted(path.name for path in judging.he.iterdir())
    assert len(names) == 2
    for name in names:
        assert (load_image(judging.he / name) == load_image(folder / "valA" / name)).all()
        assert (load_image(judging.real / name) == load_image(folder / "valB" / name)).all()


def test_a_data_set_without_a_held_out_part_is_refused(pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(pairs / "TrainValAB/trainA", tmp_path / "set/he")
    shutil.copytree(pairs / "TrainValAB/trainB", tmp_path / "set/ihc")
    with pytest.raises(InputError, match="no held-out part"):
        gather(tmp_path / "set", tmp_path / "out", None, None, ())


def test_the_time_of_all_steps_follows_from_those_that_were_timed() -> None:
    assert _whole(10.0, steps=20, before=0) == 10
    assert _whole(10.0, steps=20, before=15) == 40
    assert math.isnan(_whole(3.0, steps=20, before=20)), "nothing was timed, so nothing is claimed"
