"""Training in float64, where sums in another order agree to many digits; in one of several processes, too."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, distributed
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.methods.base import Method, Progress
from restain.training import train


def train_all(recipes: Sequence[Path], data: Path, out: Path, surroundings: Mapping[str, str]) -> None:
    """Train each recipe into a folder of its own, in a process that `surroundings` tell of as `torchrun` would."""
    os.environ |= surroundings
    for recipe in recipes:
        train(recipe, data, out / recipe.stem)
    distributed.destroy_process_group()


def doubled(method: type[Method]) -> type[Method]:
    """The same method in float64."""

    class Doubled(method):  # type: ignore[valid-type,misc]  # a base class that is a variable
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.double()

        def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
            pair = replace(pair, he=pair.he.double(), ihc=pair.ihc.double())
            return super().step(pair, optimizers, progress)

    return Doubled
