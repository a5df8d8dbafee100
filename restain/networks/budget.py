"""Limits the weights of a network that is built from a file, whose sizes may be wrong.

A header of a few bytes may describe a network that fills all memory, or has 10⁹ blocks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from restain.errors import ConfigError

MOST_TENSORS = 4000
"""Several times as many as in the largest method here."""


class OverBudgetError(ConfigError):
    """A network that exceeds its limit."""


_MADE = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})


@contextmanager
def within(weights: int) -> Iterator[None]:
    """Within the context, refuse to create more weights than the limit, before memory is allocated.

    Raises:
        OverBudgetError: the limit is exceeded.
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
    """Number of elements of a tensor created with these arguments; 1 if unknown."""
    size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
    try:
        return math.prod(int(side) for side in size)
    except (TypeError, ValueError):
        return 1
