"""The demo from end to end, tiny: everything is made once, and what was made is not made again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from restain.data.phantom import PhantomSettings
from restain.demo import run
from restain.demo.run import read_curves, run_demo
from restain.demo.stages import Journal
from restain.errors import OutputError
from restain.training import Recipe, load_recipe

TINY = ("data.crop_px=64", "model.width=4", "model.positions=16", "training.steps=2", "training.log_every_steps=1")
AUXILIARY = [
    f"auxiliary.{side}_{kind}.{setting}"
    for side in ("he", "ihc")
    for kind in ("autoencoder", "classifier")
    for setting in ("data.crop_px=64", "training.steps=1")
]
GUIDED = ("model.views.patches_per_side=8", *AUXILIARY)  # six do not fit 64 px


def tiny_recipe(path: Path, overrides: Sequence[str]) -> Recipe:
    """The demo's own recipe, two steps long."""
    return load_recipe(path, [*overrides, *TINY, *(GUIDED if path.stem == "vsmt" else ())])


@pytest.fixture(scope="module")
def tiny() -> Any:
    """Eight small pairs and recipes of two steps, in place of the demo's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "PAIRS", 8)
        patch.setattr(run, "HELD_OUT", 4)
        patch.setattr(run, "TISSUE", PhantomSettings(size_px=64, mpp=1.0))
        patch.setattr(run, "load_recipe", tiny_recipe)
        yield patch


@pytest.fixture(scope="module")
def demo(tiny: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished demo."""
    out = tmp_path_factory.mktemp("demo") / "out"
    assert run_demo(out, seed=3) == out / "index.html"
    return out


def test_the_page_shows_both_methods_and_all_that_was_done(demo: Path) -> None:
    page = (demo / "index.html").read_text(encoding="utf-8")
    for words in ("VSMT", "No guidance", "Real neighbour", "restain train", "--set seed=3", "4 tiles", "generator/nce"):
        assert words in page
    assert (demo / "measured" / "vsmt" / "evaluation.json").is_file()
    assert len(list((demo / "stained" / "baseline").iterdir())) == 4


def test_what_is_done_is_not_done_again(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("was done before")

    for name in ("write_pairs", "train", "stain_files"):
        monkeypatch.setattr(run, name, refuse)
    before = (demo / "index.html").read_text(encoding="utf-8")
    (demo / "index.html").unlink()
    run_demo(demo, seed=3)
    after = (demo / "index.html").read_text(encoding="utf-8")
    assert after[: after.index("How this was made")] == before[: before.index("How this was made")]


def test_a_folder_of_another_seed_or_with_other_things_is_refused(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds the demo of seed 3; give another folder, or that seed"):
        run_demo(demo, seed=4)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds something else"):
        run_demo(tmp_path)


@pytest.mark.parametrize("stop", ["write_pairs", "journal"])
def test_a_demo_killed_in_its_first_stage_goes_on(
    tiny: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    """Killed while it draws, or when all is drawn and the journal does not know it yet."""

    class Killed(BaseException):
        """Nothing after it happens."""

    def draw_half(pairs: Path, *_: object, **__: object) -> None:
        pairs.mkdir(parents=True)
        (pairs / "half.png").touch()
        raise Killed

    def do_and_die(_: Journal, words: str, command: str, work: Callable[[], object]) -> None:
        del words, command
        work()
        raise Killed

    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "once", do_and_die)
        if stop == "write_pairs":
            patch.setattr(run, "write_pairs", draw_half)
        with pytest.raises(Killed):
            run_demo(tmp_path / "out")
    monkeypatch.setattr(run, "train", die)
    with pytest.raises(Killed):
        run_demo(tmp_path / "out")
    assert [words[:4] for words in Journal(tmp_path / "out", 0).done] == ["Draw"]
    assert not (tmp_path / "out" / "pairs" / "half.png").exists()


def test_both_methods_start_and_learn_alike_but_for_the_guidance() -> None:
    recipes = [load_recipe(Path(run.__file__).with_name(f"{method.key}.toml")) for method in (run.BASELINE, run.GUIDED)]
    baseline, guided = recipes
    assert (baseline.data, baseline.training) == (guided.data, guided.training)
    only_guidance = {
        "auxiliary_normalised",
        "guidance",
        "region_size",
        "views",
        "ramp_epochs",
        "ramp_steps",
        "ramp_power",
    }
    assert baseline.model.model_dump(exclude=only_guidance) == guided.model.model_dump(exclude=only_guidance)


def test_a_stage_counts_every_attempt_and_is_finished_once(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    first = Journal(tmp_path / "out", 0)
    with pytest.raises(ZeroDivisionError):
        first.once("work", "", fail)
    done: list[int] = []
    work: Callable[[], object] = lambda: done.append(1)  # noqa: E731  # a stage's work is a callable
    second = Journal(tmp_path / "out", 0)
    second.once("work", "restain work", work)
    assert second.stages[0].seconds >= first.seconds["work"]
    third = Journal(tmp_path / "out", 0)
    third.once("work", "restain work", work)
    assert done == [1]
    assert third.stages == second.stages


def test_curves_hold_the_losses_of_each_line(demo: Path) -> None:
    curves = read_curves(demo / "runs" / "vsmt" / "losses.jsonl")
    assert {"generator/gan", "generator/guidance", "alignment/structure"} <= curves.keys()
    assert [step for step, _ in curves["generator/gan"]] == [1, 2]
    assert torch.tensor([value for _, value in curves["generator/gan"]]).isfinite().all()
