"""A run's method comes back with everything that it has learned."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from restain.errors import MissingError
from restain.methods.vsmt import Vsmt
from restain.training import train
from restain.training.trained import load_method


def test_a_trained_method_aligns_as_it_did(tiles: Path, write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    train(write_recipe("vsmt", training={"steps": 1}), tiles, tmp_path / "run")
    method = load_method(tmp_path / "run")
    assert isinstance(method, Vsmt)
    assert not method.training
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["method"]
    assert saved.keys() == method.state_dict().keys()
    assert all(torch.equal(weight, saved[name]) for name, weight in method.state_dict().items())


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="holds no saved state"):
        load_method(tmp_path)
