"""Cheap results that are computed again for the gradient instead of being kept for it.

Half of what a generator would keep for its gradient are results of norms, activations and resamplings, which are cheap;
here only what these start from is kept. That is checkpointing (Chen et al. 2016) of the cheapest layers alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from restain.tensors import is_followed

Formula = Callable[[Tensor], Tensor]
_MARK = "restain_ancestor"


def recomputed(formula: Formula, x: Tensor) -> Tensor:
    """`formula(x)`, of which only x is kept for the gradient, also by the convolution that reads the result.

    Where nothing is gained it is `formula(x)` as it is: no gradient is wanted, x is not on a CPU, or a compiler follows
    the computation.

    Args:
        formula: always gives the same for the same tensor, and has no weights.
        x: of any shape.
    """
    if not _pays(x):
        return formula(x)
    again = _Again(formula, torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"))
    result: Tensor = _Recomputed.apply(x, again)  # type: ignore[no-untyped-call]  # torch ships no annotations
    return _marked(result, x, lambda kept: again.graph(kept)[1].detach())


def linear(formula: Formula, x: Tensor) -> Tensor:
    """`formula(x)` of a formula whose gradient needs no values: only the convolution that reads the result does."""
    result = formula(x)
    return _marked(result, x, formula) if _pays(x) else result


@dataclass(frozen=True)
class Ancestor:
    """What to keep instead of a tensor, and how to make the tensor of it."""

    kept: Tensor
    make: Formula
    version: int = 0

    @staticmethod
    def of(x: Tensor) -> "Ancestor":
        """That of a result from above, if nothing has changed it in place since; any other tensor is its own."""
        ancestor: Ancestor | None = vars(x).get(_MARK)
        return ancestor if ancestor and ancestor.version == x._version else Ancestor(x, lambda kept: kept)


def _pays(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled() and not is_followed()


def _marked(result: Tensor, x: Tensor, formula: Formula) -> Tensor:
    ancestor = Ancestor.of(x)
    make = ancestor.make  # and no reference to the tensors, which the graph lets go when they are not needed
    vars(result)[_MARK] = Ancestor(ancestor.kept, lambda kept: formula(make(kept)), result._version)
    return result


class _Again:
    """A formula, and its latest result until the gradient has passed it."""

    def __init__(self, formula: Formula, autocast: bool, dtype: torch.dtype) -> None:
        self.formula, self.autocast, self.dtype = formula, autocast, dtype
        self.made: tuple[Tensor, Tensor] | None = None

    def graph(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A copy of x that takes a gradient, and the result with the graph between them."""
        if self.made is None:
            with torch.enable_grad(), torch.autocast("cpu", self.dtype, enabled=self.autocast):
                start = x.detach().requires_grad_()
                self.made = start, self.formula(start)
        return self.made


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, again: _Again) -> Tensor:
        ctx.again = again
        ctx.save_for_backward(x)
        return again.formula(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        start, result = ctx.again.graph(*ctx.saved_tensors)
        ctx.again.made = None
        (of_x,) = torch.autograd.grad(result, start, gradient)
        return of_x, None
