"""Auxiliary models that a method needs first: where they are stored, and how they are loaded."""

import json
from hashlib import blake2b
from pathlib import Path

from torch import nn

from restain.checkpoint import load_checkpoint
from restain.errors import CheckpointError
from restain.methods import METHODS
from restain.methods.base import AuxiliaryModel
from restain.training.config import Recipe, identity


def auxiliary_folder(name: str, recipe: Recipe, listed: str, out: Path) -> Path:
    """The folder of an auxiliary model's run, in `auxiliary/` beside the run that needs it.

    Its name depends on everything that determines the weights, so neighbouring runs, such as the rows of an ablation,
    share a model if its recipe and data agree.
    """
    return _folder(name, json.dumps(identity(recipe.table()), sort_keys=True) + listed, out)


def nuclei_folder(nuclei: tuple[int, str], listed: str, out: Path) -> Path:
    """The folder of a data set's densities of nuclei, likewise; named after the data and how nuclei were found."""
    return _folder("nuclei", json.dumps(nuclei) + listed, out)


def _folder(name: str, made_of: str, out: Path) -> Path:
    digest = blake2b(made_of.encode("utf-8", "surrogateescape"), digest_size=5).hexdigest()
    return out.absolute().parent / "auxiliary" / f"{name}-{digest}"


def load_auxiliary(name: str, needed: AuxiliaryModel, path: Path) -> nn.Module:
    """A trained model, frozen and in evaluation mode.

    Raises:
        CheckpointError: it was trained by another method, or, if recorded, for another use.
    """
    module, info = load_checkpoint(path)
    if info.method not in (needed.method, "imported"):
        raise CheckpointError(
            f"[auxiliary.{name}] needs a model trained by {needed.method!r}, but {path} is from {info.method!r}"
        )
    for key in METHODS[needed.method].agreed:
        asked, found = needed.model.get(key), info.extra.get(key)  # not recorded in older checkpoints
        if asked is not None and found not in (None, asked):
            raise CheckpointError(
                f"[auxiliary.{name}] needs a model with {key} = {asked!r}, but {path} was trained with {found!r}; "
                "name another checkpoint, or none, so that the model is trained first"
            )
    return module.requires_grad_(False).eval()
