import io
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from restain.checkpoint import load_checkpoint, read_info, save_checkpoint
from restain.data import pairs
from restain.data.pairs import Pair
from restain.errors import CheckpointError, ConfigError, InputError, MissingError, NonFiniteLossError, OutputError
from restain.methods import METHODS
from restain.methods.base import Progress
from restain.training import Recipe, run, train
from restain.training.schedule import rate_factor
from restain.training.state import steps_done
from restain.workers.processes import start_process

Small = Callable[..., Recipe]
Write = Callable[..., Path]


class Killed(BaseException):
    """As abrupt as can be without ending the tests."""


@pytest.fixture
def intercept(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a function look at the arguments and the losses of every step of a method."""

    def replace(method: str, look: Callable[[dict[str, Optimizer], Progress, dict[str, Tensor]], None]) -> None:
        kind = METHODS[method]

        class Watched(kind):  # type: ignore[valid-type,misc]  # a base class that is a variable
            def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
                losses = super().step(pair, optimizers, progress)
                look(dict(optimizers), progress, losses)
                return losses

        monkeypatch.setitem(METHODS, method, Watched)

    return replace


def digest(checkpoint: Path) -> str:
    return read_info(checkpoint).sha256


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]


KILLED = {"reconstruct": 0, "classify": 3, "segment": 3, "cut": 2, "asp": 2, "pspstain": 2, "simgan": 2, "vsmt": 2}
KILLED |= {"pix2pix": 2, "cyclegan": 2, "pyramidp2p": 2, "tdkstain": 2, "registered": 2}
"""At the end of which step, states being saved after every second; there is one more."""


@pytest.mark.parametrize(("method", "killed_in"), KILLED.items())
def test_a_run_killed_in_a_step_ends_as_if_it_had_not_been(
    method: str,
    killed_in: int,
    small: Small,
    tiles: Path,
    tmp_path: Path,
    intercept: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = small(method, training={"steps": max(3, killed_in + 1)})
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    expected = digest(train(recipe, tiles, whole))

    def kill(_: object, progress: Progress, __: object) -> None:
        if progress.step == killed_in:
            raise Killed

    with monkeypatch.context():
        intercept(method, kill)
        with pytest.raises(Killed):
            train(recipe, tiles, resumed)
    monkeypatch.undo()
    assert steps_done(resumed / "state.pt") == killed_in // 2 * 2
    assert digest(train(recipe, tiles, resumed)) == expected
    assert (resumed / "losses.jsonl").read_text() == (whole / "losses.jsonl").read_text()
    states = [torch.load(out / "state.pt", weights_only=True)["method"] for out in (whole, resumed)]
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


def test_a_process_killed_again_and_again_ends_with_the_same_weights(
    write_recipe: Write, tiles: Path, tmp_path: Path
) -> None:
    recipe = write_recipe("reconstruct", training={"steps": 40, "save_every_steps": 5, "sample_every_steps": 20})
    expected = digest(train(recipe, tiles, tmp_path / "whole"))
    out = tmp_path / "killed"
    state = out / "state.pt"
    for kill in range(2):
        before = state.stat().st_mtime_ns if kill else 0
        process = start_process(train, recipe, tiles, out)
        while process.is_alive() and (not state.exists() or state.stat().st_mtime_ns == before):
            time.sleep(0.002)
        time.sleep(0.005 * kill)
        process.kill()
        process.join()
        assert 0 < steps_done(state) < 40
    assert digest(train(recipe, tiles, out)) == expected
    assert log(out) == log(tmp_path / "whole")
    assert not list(out.glob(".*.*"))


def test_a_finished_run_says_so_and_does_nothing(small: Small, tiles: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(small("cut"), tiles, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    console = Console(file=io.StringIO(), width=200)
    assert train(small("cut"), tiles, out, console=console) == out / "model.safetensors"
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert isinstance(console.file, io.StringIO)
    assert "run is finished: 6 steps" in console.file.getvalue()


def test_a_lost_checkpoint_of_a_finished_run_is_written_again(small: Small, tiles: Path, tmp_path: Path) -> None:
    checkpoint = train(small("cut"), tiles, tmp_path / "run")
    expected = digest(checkpoint)
    checkpoint.unlink()
    assert digest(train(small("cut"), tiles, tmp_path / "run")) == expected


def test_the_seed_decides_and_how_it_is_watched_does_not(small: Small, tiles: Path, tmp_path: Path) -> None:
    def weights(name: str, **sections: Any) -> str:
        return digest(train(small("reconstruct", **sections), tiles, tmp_path / name))

    expected = weights("plain")
    watched = {"log_every_steps": 1, "sample_every_steps": 1, "save_every_steps": 1}
    assert weights("watched", training=watched, data={"loaders": 1}) == expected
    assert weights("other", seed=1) != expected
    assert sorted(path.name for path in (tmp_path / "watched" / "samples").iterdir())[-1] == "000006.png"
    assert len(log(tmp_path / "watched")) == 6


def test_the_global_generator_is_left_alone(small: Small, tiles: Path, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(small("reconstruct"), tiles, tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_optimiser_of_a_run_follows_the_schedule(
    small: Small, tiles: Path, tmp_path: Path, intercept: Callable[..., None]
) -> None:
    seen: list[dict[str, float]] = []

    def look(optimizers: dict[str, Optimizer], progress: Progress, _: object) -> None:
        rates = {name: group["lr"] for name, optimizer in optimizers.items() for group in optimizer.param_groups}
        assert (progress.steps, progress.steps_per_epoch, progress.step) == (4, 4, len(seen))
        seen.append(rates)

    intercept("vsmt", look)
    train(small("vsmt", training={"epochs": 1, "decay_epochs": 1}), tiles, tmp_path / "run", steps=4)
    assert len(seen[0]) >= 6
    for step, rates in enumerate(seen):
        assert rates == {name: pytest.approx(2e-4 * rate_factor(step, 4, 2)) for name in seen[0]}
    assert seen[-1]["generator"] < seen[0]["generator"]


def test_without_steps_the_data_and_the_epochs_decide_the_length(
    write_recipe: Write, tiles: Path, tmp_path: Path
) -> None:
    recipe = write_recipe("reconstruct", training={"epochs": 1, "decay_epochs": 1})
    text = recipe.read_text()
    recipe.write_text(text.replace("steps = 6\n", "", 1))
    train(recipe, tiles, tmp_path / "run")
    assert steps_done(tmp_path / "run" / "state.pt") == 2 * 8 // 2


def test_steps_given_to_the_call_win(small: Small, tiles: Path, tmp_path: Path) -> None:
    train(small("reconstruct"), tiles, tmp_path / "run", steps=3)
    assert steps_done(tmp_path / "run" / "state.pt") == 3
    with pytest.raises(OutputError, match=r"training.steps was 3, is 2"):
        train(small("reconstruct"), tiles, tmp_path / "run", steps=2)


def test_a_recipe_can_name_its_pairs(small: Small, tiles: Path, tmp_path: Path) -> None:
    listed = tmp_path / "pairs.csv"
    rows = [f"{he},{tiles / 'trainB' / he.name},train" for he in sorted((tiles / "trainA").iterdir())]
    listed.write_text("\n".join(["he,ihc,split", *rows]), encoding="utf-8")
    given = train(small("pix2pix", training={"steps": 1}), listed, tmp_path / "given")
    named = train(small("pix2pix", training={"steps": 1}, data={"root": str(listed)}), None, tmp_path / "named")
    assert all(torch.equal(weights, load_file(named)[name]) for name, weights in load_file(given).items())
    with pytest.raises(ConfigError, match=r"root in \[data\]"):
        train(small("pix2pix", training={"steps": 1}), None, tmp_path / "nothing")


def test_a_bad_loss_stops_the_run_and_leaves_the_last_good_state(
    small: Small, tiles: Path, tmp_path: Path, intercept: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = digest(train(small("cut"), tiles, tmp_path / "well"))

    def spoil(_: object, progress: Progress, losses: dict[str, Tensor]) -> None:
        if progress.step == 2:
            losses["generator/nce"] = torch.tensor(float("nan"))

    intercept("cut", spoil)
    words = "in step 3 the loss generator/nce is nan; the last valid state and checkpoint are those of step 2"
    with pytest.raises(NonFiniteLossError, match=words):
        train(small("cut"), tiles, tmp_path / "run")
    assert steps_done(tmp_path / "run" / "state.pt") == 2
    monkeypatch.undo()
    assert digest(train(small("cut"), tiles, tmp_path / "run")) == expected


def test_a_rate_that_is_far_too_high_is_noticed(small: Small, tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"step \d.* no state was saved before. Try a lower learning rate"):
        train(small("reconstruct", model={"lr": 1e38}), tiles, tmp_path / "run")
    assert not (tmp_path / "run" / "state.pt").exists()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] can't allocate memory: 9 TB")]
)
def test_too_little_memory_is_said_in_a_sentence(
    error: Exception, small: Small, tiles: Path, tmp_path: Path, intercept: Callable[..., None]
) -> None:
    def fail(*_: object) -> None:
        raise error

    intercept("cut", fail)
    with pytest.raises(ConfigError, match=r"cpu has too little memory .* crop_px or batch_size"):
        train(small("cut"), tiles, tmp_path / "run")


def test_networks_that_no_memory_holds_are_refused_before_they_are_built(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small("cut", model={"width": 64})
    expected = run.build(recipe, {}).state_dict()
    monkeypatch.setattr(run, "USUAL_WEIGHTS", 10_000)  # so that they are counted first, and found to fit
    assert all(torch.equal(weight, expected[name]) for name, weight in run.build(recipe, {}).state_dict().items())
    monkeypatch.setattr(run, "total_bytes", lambda: 2**27)
    with pytest.raises(ConfigError, match=r"cut with these settings of \[model\] cannot be .*smaller width"):
        run.build(recipe, {})


def test_bfloat16_trains_and_keeps_float32_weights(small: Small, tiles: Path, tmp_path: Path) -> None:
    train(small("cut", training={"precision": "bfloat16"}), tiles, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["method"]
    assert {weight.dtype for weight in state.values()} == {torch.float32}


def test_the_checkpoint_tells_where_it_comes_from(small: Small, tiles: Path, tmp_path: Path) -> None:
    info = read_info(train(small("cut", data={"stain": "HER2", "mpp": 0.5}), tiles, tmp_path / "run"))
    assert (info.method, info.stain, info.mpp, info.kind) == ("cut", "HER2", 0.5, "generator")
    assert info.extra == {"steps": 6, "seed": 0}


def test_an_ablation_shares_its_auxiliary_models(small: Small, tiles: Path, tmp_path: Path) -> None:
    train(small("vsmt"), tiles, tmp_path / "complete", steps=1)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "auxiliary").rglob("*")}
    assert len(list((tmp_path / "auxiliary").glob("*/model.safetensors"))) == 4
    train(small("vsmt", model={"alignment": "ot"}), tiles, tmp_path / "row", steps=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "auxiliary").rglob("*")} == made
    train(small("vsmt", auxiliary={"he_classifier": {"seed": 9}}), tiles, tmp_path / "other", steps=1)
    assert len(list((tmp_path / "auxiliary").glob("*/model.safetensors"))) == 5


def test_a_model_that_the_recipe_names_is_used_as_it_is(small: Small, tiles: Path, tmp_path: Path) -> None:
    checkpoint = train(small("classify", model={"width": 2}), tiles, tmp_path / "classifier", steps=1)
    named = {"he_classifier": {"checkpoint": str(checkpoint)}}
    train(small("vsmt", auxiliary=named), tiles, tmp_path / "run", steps=1)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["method"]
    classifier = torch.load(checkpoint.with_name("state.pt"), weights_only=True)["method"]
    for name, weight in classifier.items():
        assert torch.equal(weight, state[name.replace("classifier.", "tasks.he_classifier.", 1)])
    assert len(list((tmp_path / "auxiliary").glob("*"))) == 3


def test_tiles_that_are_only_shown_are_not_graded(
    small: Small, tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grading looks at every IHC image where names carry no grades."""
    root = tmp_path / "tiles"
    for path in tiles.rglob("*.png"):
        copy = root / path.relative_to(tiles).with_name(path.name.split("_")[0] + ".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    graded, shown = [], []
    measure, show = pairs.measure_positive_fractions, run.shown_pairs
    monkeypatch.setattr(pairs, "measure_positive_fractions", lambda files: graded.extend(files) or measure(files))
    monkeypatch.setattr(run, "shown_pairs", lambda *given: shown.append(given) or show(*given))
    train(small("classify", training={"sample_every_steps": 1}), root, tmp_path / "run", steps=1)
    assert (tmp_path / "run" / "samples" / "000001.png").is_file()
    assert {pair.he.parent.name for pair in graded} == {"trainA"}
    train(small("classify"), root, tmp_path / "other", steps=1)
    assert len(shown) == 1, "where no samples are drawn, none are looked for"


def test_a_model_of_the_wrong_kind_is_refused(small: Small, tiles: Path, tmp_path: Path) -> None:
    checkpoint = train(small("cut"), tiles, tmp_path / "cut", steps=1)
    with pytest.raises(CheckpointError, match=r"\[auxiliary.he_classifier\] needs a model trained by 'classify', but"):
        train(small("vsmt", auxiliary={"he_classifier": {"checkpoint": str(checkpoint)}}), tiles, tmp_path / "run")


def test_a_model_for_another_use_is_refused_where_its_checkpoint_says_so(
    small: Small, tiles: Path, tmp_path: Path
) -> None:
    checkpoint = train(small("classify", model={"width": 2, "side": "ihc"}), tiles, tmp_path / "ihc", steps=1)
    agreed = {"side": "ihc", "width": 2, "normalise_brightness": False}
    assert read_info(checkpoint).extra == {"steps": 1, "seed": 0} | agreed
    recipe = small("vsmt", auxiliary={"he_classifier": {"checkpoint": str(checkpoint)}})
    words = r"\[auxiliary.he_classifier\] needs a model with side = 'he', but .*safetensors was trained with 'ihc'"
    with pytest.raises(CheckpointError, match=words):
        train(recipe, tiles, tmp_path / "run", steps=1)
    network, info = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, network, method=info.method, extra={"steps": 1, "seed": 0})  # as older ones are
    assert train(recipe, tiles, tmp_path / "run", steps=1).is_file()


def test_a_mistake_about_the_data_comes_before_anything_is_trained(small: Small, tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only 8 pairs"):
        train(small("vsmt", data={"batch_size": 10}), tiles, tmp_path / "run")
    with pytest.raises(MissingError):
        train(small("vsmt"), tmp_path / "nowhere", tmp_path / "run")
    assert not (tmp_path / "auxiliary").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (
            (70, 70),
            r"tile0_0\+.png is 70 x 70 px, but cut trains on whole tiles and needs sides of at least 32 px, mul",
        ),
        ((72, 28), r"is 72 x 28 px, .* set crop_px in \[data\] to a size that fits"),
    ],
)
def test_whole_tiles_must_be_such_as_a_step_can_be_done_on(
    size: tuple[int, int], words: str, small: Small, tiles: Path, tmp_path: Path
) -> None:
    root = resized(tiles, tmp_path, size)
    with pytest.raises(InputError, match=words):
        train(small("cut", data={"crop_px": "whole"}), root, tmp_path / "run")


def test_whole_tiles_of_an_auxiliary_model_are_looked_at_before_any_is_trained(
    small: Small, tiles: Path, tmp_path: Path
) -> None:
    root = resized(tiles, tmp_path, (66, 68))
    whole = {"ihc_autoencoder": {"data": {"crop_px": "whole"}}}
    with pytest.raises(
        InputError, match=r"is 66 x 68 px, .*multiples of 4; set crop_px in \[auxiliary.ihc_autoencoder"
    ):
        train(small("vsmt", auxiliary=whole), root, tmp_path / "run")
    assert not (tmp_path / "auxiliary").exists()
    train(small("classify", data={"crop_px": "whole"}), root, tmp_path / "sound", steps=1)


def resized(tiles: Path, folder: Path, size: tuple[int, int]) -> Path:
    """The same data set at another size, width and height in px."""
    for path in tiles.rglob("*.png"):
        copy = folder / "resized" / path.relative_to(tiles)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).resize(size).save(copy)
    return folder / "resized"
