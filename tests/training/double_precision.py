"""`double_precision.py DATA OUT RECIPE...`: train in float64, where sums in another order agree to many digits."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.methods import METHODS
from restain.methods.base import Method, Progress
from restain.training import train


def doubled(method: type[Method]) -> type[Method]:
    class Doubled(method):  # type: ignore[valid-type,misc]  # a base class that is a variable
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.double()

        def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
            pair = replace(pair, he=pair.he.double(), ihc=pair.ihc.double())
            return super().step(pair, optimizers, progress)

    return Doubled


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in ("cut", "asp", "pspstain", "vsmt"):
        METHODS[name] = doubled(METHODS[name])
    data, out, *recipes = map(Path, sys.argv[1:])
    for recipe in recipes:
        train(recipe, data, out / recipe.stem)
