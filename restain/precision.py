"""Full precision for formulas: autocast must not round logarithms, sums of exponentials and similarities to 8 bits."""

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(formula: Callable[P, R]) -> Callable[P, R]:
    """Let a formula compute in float32 also inside autocast, matrix products included. Float64 stays float64.

    Half-precision arguments are raised to float32, and the result stays float32; gradients reach the caller in the type
    of what was handed in. Only arguments that are tensors themselves are raised, not tensors inside lists.
    """

    @functools.wraps(formula)
    def in_full_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        full = [_full(value) for value in args]
        named = {name: _full(value) for name, value in kwargs.items()}
        with _autocast_off([*full, *named.values()]):
            return formula(*full, **named)

    return in_full_precision


def raised(values: Tensor) -> Tensor:
    """Half-precision values as float32, others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _full(value: Any) -> Any:
    return raised(value) if isinstance(value, Tensor) else value


def _autocast_off(values: Iterable[Any]) -> AbstractContextManager[Any]:
    device = next(value.device.type for value in values if isinstance(value, Tensor))
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
