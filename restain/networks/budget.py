"""Build a network only as far as a number of weights allows: sizes in a file are claims until they are checked.

A header of a few bytes may ask for a network that fills all memory, or for a thousand million blocks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from restain.errors import ConfigError

MOST_TENSORS = 4000
"""Several times as many as the largest method here has."""


class OverBudgetError(ConfigError):
    """A network that would be larger than it may be."""


_MADE = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})


@contextmanager
def within(weights: int) -> Iterator[None]:
    """Refuse to make more than so many weights in all, before the memory for them is taken.

    Raises:
        OverBudgetError: that happened; says how many there may be, for the caller to say why.
    """
    with _Budget(weights):
        yield


class _Budget(TorchFunctionMode):
    def __init__(self, weights: int) -> None:
        super().__init__()
        self.weights, self.left, self.tensors = weights, weights, MOST_TENSORS

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _MADE:
            self.left -= _elements(args, kwargs)
            self.tensors -= 1
            if self.left < 0:
                raise OverBudgetError(f"it would have more than {self.weights:,} weights")
            if self.tensors < 0:
                raise OverBudgetError(f"it would have more than {MOST_TENSORS:,} tensors")
        return func(*args, **kwargs)


def _elements(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """How many numbers a tensor has that is made with these arguments; 1 where that cannot be told."""
    size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
    try:
        return math.prod(int(side) for side in size)
    except (TypeError, ValueError):
        return 1
