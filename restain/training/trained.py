"""Loads the trained method of a run, to inspect it; staining needs only its product."""

from pathlib import Path

from torch import nn

from restain.checkpoint import load_checkpoint
from restain.errors import MissingError
from restain.methods.base import Method
from restain.training.config import Pretrained, Recipe
from restain.training.folder import RECIPE, STATE
from restain.training.recipes import load_recipe
from restain.training.run import build
from restain.training.state import load_method_weights
from restain.training.toml import read_toml


def load_method(run: Path | str) -> Method:
    """The method of a run at its last saved state, in evaluation mode on the CPU.

    Args:
        run: folder of a finished or unfinished run.

    Raises:
        MissingError: there is no run with a saved state, or a checkpoint named by its recipe is missing.
        CheckpointError: the state is damaged.
    """
    run = Path(run)
    if not (run / STATE).is_file():
        raise MissingError(f"{run} has no saved state ({STATE}); give the folder of a run, or train it further")
    _check_checkpoints(run / RECIPE)
    recipe = load_recipe(run / RECIPE)
    # the state includes the weights of auxiliary models; here only their shapes are needed
    method = build(recipe, {name: _shaped(choice) for name, choice in recipe.auxiliary.items()})
    load_method_weights(run / STATE, method)
    return method.eval()


def _shaped(choice: Pretrained | Recipe) -> nn.Module:
    """An untrained auxiliary model with the shape used in the run."""
    return load_checkpoint(choice.checkpoint)[0] if isinstance(choice, Pretrained) else build(choice, {}).product()


def _check_checkpoints(recipe: Path) -> None:
    for name, given in read_toml(recipe).get("auxiliary", {}).items():
        if "checkpoint" in given and not Path(given["checkpoint"]).is_file():
            raise MissingError(
                f"{recipe} names {given['checkpoint']} as its {name}, but the file is missing; restore it, "
                f"or set its new path as checkpoint in [auxiliary.{name}]"
            )
