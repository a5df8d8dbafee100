"""Spectral norm (Miyato et al. 2018) with the tensors of PyTorch's, in fewer passes over the weight.

PyTorch's copies a weight whose channels lie last in memory for each product, multiplies by the singular vector once
more, and has a longer chain of gradients. Values and gradients are the same up to rounding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrizations, parametrize

from restain.tensors import is_followed


def spectral_norm(layer: nn.Conv2d) -> nn.Conv2d:
    """Divide the weight of a convolution by its largest singular value, which power iteration follows in training."""
    parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return layer


class SpectralNorm(parametrizations._SpectralNorm):
    """A weight D x C x h x w over the largest singular value of the matrix D x (C h w).

    One power iteration for each pass in training mode; `_u` and `_v` are the singular vectors. Under autocast the
    result already has its type.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """The weight divided."""
        if weight.device.type != "cpu" or weight.ndim != 4 or is_followed():
            usual: Tensor = super().forward(weight)
            return usual
        rounded = torch.is_autocast_enabled("cpu") and weight.dtype == torch.float32
        dtype = torch.get_autocast_dtype("cpu") if rounded else weight.dtype
        with torch.autocast("cpu", enabled=False):
            u, v, largest = self._largest(weight.detach())
            divided: Tensor = _Divided.apply(weight, u, v, largest, dtype)  # type: ignore[no-untyped-call]  # torch's
        return divided

    @torch.no_grad()
    def _largest(self, weight: Tensor) -> tuple[Tensor, Tensor, float]:
        """Its singular vectors, v in the weight's memory order, and singular value u W v."""
        matrix, v = _matrix(weight), _matrix(self._v.view(1, *weight.shape[1:]), like=weight).squeeze(0)
        if not self.training:
            return self._u.clone(), v, torch.dot(self._u, torch.mv(matrix, v)).item()
        u = F.normalize(torch.mv(matrix, v), dim=0, eps=self.eps)
        reached = torch.mv(matrix.mT, u)
        v = F.normalize(reached, dim=0, eps=self.eps)
        self._u.copy_(u)
        self._v.view(1, *weight.shape[1:]).copy_(_tensor(v.unsqueeze(0), like=weight))
        return u, v, torch.dot(reached, v).item()


class _Divided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, u: Tensor, v: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
        ctx.largest = largest
        ctx.save_for_backward(weight, u, v)
        return (weight / largest).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        weight, u, v = ctx.saved_tensors
        of_divided = _matrix(gradient.to(weight.dtype), like=weight)
        share = torch.sum(of_divided * _matrix(weight)).item() / ctx.largest
        of_weight = torch.addr(of_divided, u, v, beta=1 / ctx.largest, alpha=-share / ctx.largest)
        return _tensor(of_weight, like=weight), None, None, None, None


def _matrix(values: Tensor, *, like: Tensor | None = None) -> Tensor:
    """D x C x h x w to D x (C h w), or to D x (h w C) where channels lie last in memory, of `values` or of `like`."""
    plain = (values if like is None else like).is_contiguous()
    return values.flatten(1) if plain else values.permute(0, 2, 3, 1).flatten(1)


def _tensor(matrix: Tensor, *, like: Tensor) -> Tensor:
    """The way back."""
    _, channels, height, width = like.shape
    if like.is_contiguous():
        return matrix.view(-1, channels, height, width)
    return matrix.view(-1, height, width, channels).permute(0, 3, 1, 2)
