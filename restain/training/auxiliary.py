"""Models that a method needs first: where a trained one is kept for the next run, and how it is handed over."""

import json
from hashlib import blake2b
from pathlib import Path

from torch import nn

from restain.checkpoint import load_checkpoint
from restain.errors import CheckpointError
from restain.training.config import Recipe, identity


def auxiliary_folder(name: str, recipe: Recipe, listed: str, out: Path) -> Path:
    """The folder of an auxiliary model's run, in `auxiliary/` beside the run that needs it.

    It is named after all that determines the weights. So runs side by side, such as the rows of an ablation, share one
    model as long as its recipe and the data agree.
    """
    made_of = json.dumps(identity(recipe.table()), sort_keys=True) + listed
    return out.absolute().parent / "auxiliary" / f"{name}-{blake2b(made_of.encode(), digest_size=5).hexdigest()}"


def load_auxiliary(name: str, method: str, path: Path) -> nn.Module:
    """A trained model, frozen and in evaluation mode.

    Raises:
        CheckpointError: the checkpoint comes from another method than `method`.
    """
    module, info = load_checkpoint(path)
    if info.method not in (method, "imported"):
        raise CheckpointError(
            f"[auxiliary.{name}] needs a model trained by {method!r}, but {path} is from {info.method!r}"
        )
    return module.requires_grad_(False).eval()
