"""The convolution of every network here: PyTorch's, with less memory and time on a CPU.

Padding lives in a buffer of the convolution and is made again for the backward pass, so that the input is all that is
kept; where the weights learn nothing, not even that. In float32, wide 3 x 3 convolutions can take fewer multiplications
(`restain.networks.winograd`).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from restain.networks import winograd
from restain.networks.recomputation import Ancestor
from restain.networks.reflection import fold_back, reflected
from restain.tensors import is_followed


class Conv2d(nn.Conv2d):
    """PyTorch's convolution with the same weights and results, padded by zeros or by reflection."""

    fewer_multiplications = False
    """Whether Winograd's algorithm may compute it where that fits; see `take_fewer_multiplications`."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  # PyTorch's
        if not self._is_ours(input):
            return self._as_pytorch(input, weight, bias)
        high, wide = (int(side) for side in self.padding)
        way = _Way((high, wide), self.padding_mode == "reflect", self.stride, self.dilation, self.groups)
        x, weight, bias = _as_autocast_has_it(input, weight, bias)
        if self.fewer_multiplications and way.fits(x, weight):
            way = replace(way, by_winograd=True)
        with torch.autocast("cpu", enabled=False):
            result: Tensor = _Convolution.apply(x, Ancestor.of(x), weight, bias, way)  # type: ignore[no-untyped-call]
        return result

    def _as_pytorch(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "zeros":
            usual: Tensor = super()._conv_forward(x, weight, bias)
            return usual
        with torch.autocast(x.device.type, enabled=False):  # on a CPU it would convert to float32 and back
            padded = F.pad(x, self._reversed_padding_repeated_twice, self.padding_mode)
        return F.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)

    def _is_ours(self, x: Tensor) -> bool:
        known = self.padding_mode in ("zeros", "reflect") and not isinstance(self.padding, str)
        return x.device.type == "cpu" and x.ndim == 4 and known and not is_followed()


def take_fewer_multiplications(network: nn.Module, wanted: bool = True) -> None:
    """Let every convolution of a network take fewer multiplications, where the algorithm fits."""
    for layer in network.modules():
        if isinstance(layer, Conv2d):
            layer.fewer_multiplications = wanted


@dataclass(frozen=True)
class _Way:
    """How a convolution is computed."""

    padding: tuple[int, int]
    reflects: bool
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    by_winograd: bool = False

    def fits(self, x: Tensor, weight: Tensor) -> bool:
        """Whether Winograd's algorithm can compute it, and saves time."""
        plain = self.stride == self.dilation == (1, 1) and self.groups == 1
        return plain and winograd.fits(x, weight, self.padding)

    def padded(self, x: Tensor) -> Tensor:
        """With what must lie around it in memory; zeros do only for Winograd's algorithm."""
        if not any(self.padding):
            return x
        if self.reflects:
            return reflected(x, self.padding)
        high, wide = self.padding
        return F.pad(x, (wide, wide, high, high)) if self.by_winograd else x

    def unpadded(self, gradient: Tensor) -> Tensor:
        """The gradient of the above; it may be changed."""
        if not any(self.padding):
            return gradient
        if self.reflects:
            return fold_back(gradient, self.padding)
        high, wide = self.padding
        if not self.by_winograd:
            return gradient
        return gradient[..., high : gradient.shape[2] - high, wide : gradient.shape[3] - wide]

    def zeros(self) -> tuple[int, int]:
        """The padding that is left to PyTorch's convolution."""
        return (0, 0) if self.reflects else self.padding


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ancestor: Ancestor, weight: Tensor, bias: Tensor | None, way: _Way) -> Tensor:
        ctx.way, ctx.shape, ctx.make = way, x.shape, ancestor.make
        ctx.memory_format = torch.contiguous_format if x.is_contiguous() else torch.channels_last
        ctx.save_for_backward(ancestor.kept if weight.requires_grad else None, weight)
        padded = way.padded(x)
        if way.by_winograd:
            return winograd.convolve(padded, weight, bias)
        return torch.conv2d(padded, weight, bias, way.stride, way.zeros(), way.dilation, way.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        way: _Way = ctx.way
        kept, weight = ctx.saved_tensors
        wants_x, _, wants_weight, wants_bias, _ = ctx.needs_input_grad
        if kept is None:  # the values of x do not matter, only its shape
            high, wide = way.padding if way.reflects or way.by_winograd else (0, 0)
            batch, channels, height, width = ctx.shape
            padded = weight.new_empty(batch, channels, height + 2 * high, width + 2 * wide)
            padded = torch.empty_like(padded, memory_format=ctx.memory_format)
        else:
            padded = way.padded(ctx.make(kept))
        of_bias = None
        if way.by_winograd:
            of_padded, of_weight = winograd.gradients(padded, weight, gradient, wants_x, wants_weight)
            of_bias = gradient.sum((0, 2, 3)) if wants_bias else None
        else:
            of_padded, of_weight, of_bias = torch.ops.aten.convolution_backward(
                gradient,
                padded,
                weight,
                [weight.shape[0]] if wants_bias else None,
                way.stride,
                way.zeros(),
                way.dilation,
                False,
                (0, 0),
                way.groups,
                (wants_x, wants_weight, wants_bias),
            )
        of_x = None if of_padded is None else way.unpadded(of_padded)
        return of_x, None, of_weight, of_bias, None


def _as_autocast_has_it(*values: Tensor | None) -> tuple[Any, ...]:
    """The values in the type in which autocast computes convolutions here."""
    if not torch.is_autocast_enabled("cpu"):
        return values
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(value if value is None or value.dtype == torch.float64 else value.to(dtype) for value in values)
