"""Start from weights, make a finished run longer: what is taken over, what is said, and that resuming stays exact."""

import io
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from restain.checkpoint import load_checkpoint, read_info, save_checkpoint
from restain.errors import CheckpointError, MissingError, OutputError
from restain.networks.auxiliary import AuxiliaryConfig, Classifier
from restain.networks.generator import Generator, GeneratorConfig
from restain.training import Recipe, train
from restain.training.start import start_from
from restain.training.state import read_saved

Small = Callable[..., Recipe]
Kill = Callable[[int], AbstractContextManager[None]]


def generator(path: Path, seed: int = 0, **shape: object) -> Generator:
    """A generator of random weights, in a checkpoint."""
    torch.manual_seed(seed)
    network = Generator(GeneratorConfig.model_validate(shape))
    save_checkpoint(path, network, method="cut")
    return network


def random(seed: int, **shape: object) -> Generator:
    torch.manual_seed(seed)
    return Generator(GeneratorConfig.model_validate(shape))


def test_tensors_of_one_name_and_shape_are_taken_and_every_other_is_named(tmp_path: Path) -> None:
    shape = {"width": 4, "spectral_norm": False}
    old = generator(tmp_path / "m.safetensors", blocks=2, **shape)
    new, untouched = random(9, blocks=3, **shape), random(9, blocks=3, **shape)
    new.stages["output"][1] = nn.Conv2d(4, 3, 5)  # another kernel
    before = untouched.state_dict() | {
        f"stages.output.1.{name}": t for name, t in new.stages["output"][1].named_parameters()
    }
    before = {name: tensor.clone() for name, tensor in before.items()}
    taken = start_from(new, tmp_path / "m.safetensors")
    for name, tensor in new.state_dict().items():
        there = old.state_dict().get(name)
        fits = there is not None and there.shape == tensor.shape
        assert torch.equal(tensor, there if fits else before[name])
        assert (name in taken.taken) == fits
        assert (name in taken.describe()) == (not fits)
    assert list(taken.other_shape) == ["stages.output.1.weight"]
    assert all(name.startswith("stages.block2.") for name in taken.lacking)
    assert not taken.surplus


def test_all_of_the_same_network_is_taken(tmp_path: Path) -> None:
    old = generator(tmp_path / "m.safetensors", width=2, blocks=1)
    new = random(5, width=2, blocks=1)
    taken = start_from(new, tmp_path / "m.safetensors")
    assert len(taken.taken) == len(old.state_dict())
    assert all(torch.equal(tensor, old.state_dict()[name]) for name, tensor in new.state_dict().items())


def test_where_nothing_fits_nothing_begins(small: Small, tiles: Path, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", Classifier(AuxiliaryConfig(width=3)), method="classify")
    with pytest.raises(CheckpointError, match=r"c.safetensors holds the classifier .*none of its tensors"):
        start_from(random(0, width=2, blocks=1, spectral_norm=False), tmp_path / "c.safetensors")
    with pytest.raises(MissingError):
        train(small("cut"), tiles, tmp_path / "run", start=tmp_path / "gone.safetensors")
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_run_that_started_from_weights_goes_on_without_them(
    small: Small, tiles: Path, tmp_path: Path, killed_in: Kill
) -> None:
    source = tmp_path / "m.safetensors"
    recipe = small("cut", training={"steps": 3})
    network, _ = load_checkpoint(train(recipe, tiles, tmp_path / "first"))
    save_checkpoint(source, network, method="cut")
    expected = read_info(train(recipe, tiles, tmp_path / "whole", start=source))
    assert expected.sha256 != read_info(tmp_path / "first" / "model.safetensors").sha256
    assert expected.extra["started_from"]["file"] == "m.safetensors"
    assert expected.extra["started_from"]["sha256"] == read_info(source).sha256

    out, console = tmp_path / "resumed", Console(file=io.StringIO(), width=300)
    with killed_in(0):
        train(recipe, tiles, out, start=source, console=console)
    assert isinstance(console.file, io.StringIO)
    count = len(network.state_dict())
    assert f"{count} of {count} tensors" in console.file.getvalue()
    source.unlink()
    assert read_info(train(recipe, tiles, out)).sha256 == expected.sha256
    assert train(recipe, tiles, out, start=source).is_file(), "the same command, though the file is gone"


def test_other_weights_than_a_run_started_from_are_refused(small: Small, tiles: Path, tmp_path: Path) -> None:
    checkpoint = train(small("cut"), tiles, tmp_path / "run", steps=1)
    with pytest.raises(OutputError, match="did not start from weights"):
        train(small("cut"), tiles, tmp_path / "run", steps=1, start=checkpoint)
    train(small("cut"), tiles, tmp_path / "second", steps=1, start=checkpoint)
    other = tmp_path / "second" / "model.safetensors"
    with pytest.raises(OutputError, match=r"started from model.safetensors, not from .*second"):
        train(small("cut"), tiles, tmp_path / "second", steps=1, start=other)


def test_a_finished_run_goes_on_as_the_longer_schedule_says(
    small: Small, tiles: Path, tmp_path: Path, killed_in: Kill
) -> None:
    half = {"epochs": 1, "decay_epochs": 1}
    out, killed = tmp_path / "run", tmp_path / "killed"
    for folder in (out, killed):
        train(small("reconstruct", training=half | {"steps": 4}), tiles, folder)
    longer = small("reconstruct", training=half | {"steps": 10, "log_every_steps": 1, "save_every_steps": 3})
    console = Console(file=io.StringIO(), width=300)
    finished = read_info(train(longer, tiles, out, console=console))
    assert isinstance(console.file, io.StringIO)
    assert "4 steps and is lengthened to 10" in console.file.getvalue()
    assert "learning rate" in console.file.getvalue()
    factors = [json.loads(line)["rate_factor"] for line in (out / "losses.jsonl").read_text().splitlines()[-6:]]
    assert factors == [round(min(1, (10 - step) / 6), 6) for step in range(4, 10)]
    assert (finished.extra["steps"], finished.extra["lengthened_at"]) == (10, [4])

    with killed_in(8):
        train(longer, tiles, killed)
    assert read_saved(killed / "state.pt").done == 6
    resumed = read_info(train(longer, tiles, killed))
    assert (resumed.sha256, resumed.extra) == (finished.sha256, finished.extra)
    assert (killed / "losses.jsonl").read_text() == (out / "losses.jsonl").read_text()
    with pytest.raises(OutputError, match=r"training.steps was 10, is 4"):
        train(small("reconstruct", training=half | {"steps": 4}), tiles, out)
