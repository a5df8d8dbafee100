"""A run's method comes back with everything that it has learned."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from restain.errors import CheckpointError, MissingError
from restain.methods.vsmt import Vsmt
from restain.training import train
from restain.training.trained import load_method

Write = Callable[..., Path]


def test_a_trained_method_aligns_as_it_did(tiles: Path, write_recipe: Write, tmp_path: Path) -> None:
    train(write_recipe("vsmt", training={"steps": 1}), tiles, tmp_path / "run")
    method = load_method(tmp_path / "run")
    assert isinstance(method, Vsmt)
    assert not method.training
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["method"]
    assert saved.keys() == method.state_dict().keys()
    assert all(torch.equal(weight, saved[name]) for name, weight in method.state_dict().items())


def test_models_have_the_shape_that_the_run_used(tiles: Path, write_recipe: Write, tmp_path: Path) -> None:
    narrow = {"segmenter": {"model": {"width": 4}}}
    train(write_recipe("pspstain", training={"steps": 1}, auxiliary=narrow), tiles, tmp_path / "run")
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["method"]
    assert load_method(tmp_path / "run").state_dict().keys() == saved.keys()

    (made,) = (tmp_path / "auxiliary").glob("*/model.safetensors")
    checkpoint = made.rename(tmp_path / "segmenter.safetensors")
    named = {"segmenter": {"checkpoint": str(checkpoint)}}
    train(write_recipe("pspstain", training={"steps": 1}, auxiliary=named), tiles, tmp_path / "other")
    assert load_method(tmp_path / "other").state_dict().keys() == saved.keys()
    checkpoint.unlink()
    with pytest.raises(MissingError, match=r"recipe.toml names .*segmenter.safetensors as its segmenter"):
        load_method(tmp_path / "other")


def test_who_only_looks_is_not_told_to_remove_the_state(tiles: Path, write_recipe: Write, tmp_path: Path) -> None:
    train(write_recipe("reconstruct", training={"steps": 1}), tiles, tmp_path / "run")
    (tmp_path / "run" / "state.pt").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="cannot be read into the method") as caught:
        load_method(tmp_path / "run")
    assert "remove" not in str(caught.value)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="has no saved state"):
        load_method(tmp_path)
