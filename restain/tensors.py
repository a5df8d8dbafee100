"""Precision and shape checks: formulas in full precision inside autocast, and tensors of equal shape."""

import functools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from restain.errors import ShapeError

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(formula: Callable[P, R]) -> Callable[P, R]:
    """Decorate a formula to compute in float32 even inside autocast, matrix products included. Float64 stays float64.

    Autocast would round logarithms, sums of exponentials and similarities to 8 bits.

    Half-precision arguments are raised to float32, and the result stays float32; gradients have the type of the
    arguments. Only arguments that are tensors themselves are raised, not tensors inside lists.
    """

    @functools.wraps(formula)
    def in_full_precision(*args: P.args, **kwargs: P.kwargs) -> R:
        full = [_full(value) for value in args]
        named = {name: _full(value) for name, value in kwargs.items()}
        with _autocast_off([*full, *named.values()]):
            return formula(*full, **named)

    return in_full_precision


def is_followed() -> bool:
    """Whether something else than autograd follows the computation, and knows PyTorch's operators only.

    That is the compiler, an export to ONNX, or a trace, from which OpenVINO converts.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]  # as torch documents
    return tracing or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def raised(values: Tensor) -> Tensor:
    """Half-precision values as float32, others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def same_shape(**tensors: Tensor) -> None:
    """Check that all tensors, given by name, have the same shape, so that none is silently broadcast.

    Raises:
        ShapeError: they differ; the message names each with its shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {' × '.join(map(str, shape))}" for name, shape in shapes.items())
        raise ShapeError(f"expected tensors of the same shape, got {found}; crop or resize them to match")


def _full(value: Any) -> Any:
    return raised(value) if isinstance(value, Tensor) else value


def _autocast_off(values: Iterable[Any]) -> AbstractContextManager[Any]:
    device = next(value.device.type for value in values if isinstance(value, Tensor))
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
