"""Building blocks: blurred resampling, residual blocks, initialisation, chains of named stages."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restain.errors import ConfigError
from restain.networks.blur import blurred_half
from restain.networks.convolution import Conv2d
from restain.networks.normalisation import BatchNorm, InstanceNorm
from restain.networks.recomputation import linear, recomputed
from restain.networks.spectral import spectral_norm

NormName = Literal["instance", "batch", "none"]


class Staged(nn.Module):
    """A network that is a chain of named stages. A tap is the name of a stage and means that stage's output.

    `inject` adds a tensor to the output of a stage (the tap then includes it). `after` continues from a known output:
    the input is then the output of that stage, not yet injected, and only what follows is run. Nothing past the last
    wanted stage is evaluated.
    """

    stages: nn.ModuleDict

    def forward(self, x: Tensor, inject: Mapping[str, Tensor] | None = None) -> Tensor:
        """Run the whole chain."""
        return self.forward_with_features(x, (), inject=inject)[0]

    def features(
        self,
        x: Tensor,
        taps: Collection[str],
        *,
        inject: Mapping[str, Tensor] | None = None,
        after: str | None = None,
    ) -> dict[str, Tensor]:
        """Outputs of the stages named in `taps`, in the order of the chain; stops at the last of them."""
        names = list(self.stages)
        last = max((names.index(self._known(tap)) for tap in taps), default=-1)
        return self._run(x, names[: last + 1], taps, inject or {}, after)[1]

    def forward_with_features(
        self,
        x: Tensor,
        taps: Collection[str],
        *,
        inject: Mapping[str, Tensor] | None = None,
        after: str | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The output and, from the same pass, the features at `taps`."""
        for tap in taps:
            self._known(tap)
        return self._run(x, list(self.stages), taps, inject or {}, after)

    def _run(
        self, x: Tensor, names: list[str], taps: Collection[str], inject: Mapping[str, Tensor], after: str | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        for name in inject:
            self._known(name)
        start = 0 if after is None else names.index(self._known(after))
        found = {}
        for name in names[start:]:
            if name != after:
                x = self.stages[name](x)
            if name in inject:
                x = x + inject[name]
            if name in taps:
                found[name] = x
        return x, found

    def _known(self, name: str) -> str:
        if name not in self.stages:
            raise ConfigError(f"{type(self).__name__} has no stage {name!r}; its stages are {', '.join(self.stages)}")
        return name


class Chain(nn.Sequential):
    """Layers in a row, in which an activation after an instance norm is computed again for the gradient, not kept."""

    def forward(self, x: Tensor) -> Tensor:
        """Run all layers, one after the other."""
        norm: InstanceNorm | None = None
        for layer in self:
            if norm:
                x = recomputed(partial(_activated, norm, layer), x) if _activates(layer) else layer(norm(x))
                norm = None
            elif isinstance(layer, InstanceNorm):
                norm = layer
            else:
                x = layer(x)
        return norm(x) if norm else x


def _activates(layer: nn.Module) -> bool:
    return isinstance(layer, nn.ReLU | nn.LeakyReLU)


def _activated(norm: InstanceNorm, activation: nn.Module, x: Tensor) -> Tensor:
    activated: Tensor = activation(norm(x))
    return activated


class ReflectionPad(nn.ReflectionPad2d):
    """Reflection padding in the type of its input, which autocast on a CPU would convert to float32 and back."""

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x C x H+2p x W+2p."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


class Dropout(nn.Dropout):
    """Dropout whose draws on a CPU do not depend on the memory format, unlike PyTorch's."""

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        if not self.training or x.is_contiguous() or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        kept = F.dropout(x.new_ones(x.shape), self.p)
        return x * kept.contiguous(memory_format=torch.channels_last)


class BlurDown(nn.Module):
    """Halve height and width after a binomial [1, 2, 1] blur (Zhang 2019, anti-aliased convolutional networks)."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", binomial(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x C x ceil(H/2) x ceil(W/2); borders are reflected."""
        return blurred_half(x, self.kernel)


class BlurUp(nn.Module):
    """Double height and width by a transposed binomial [1, 3, 3, 1] blur, the counterpart of `BlurDown`.

    Along each side that gives 3/4 of the nearer pixel and 1/4 of the next: bilinear interpolation, for which torch has
    faster kernels than for a transposed convolution, 2 to 20 times on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x C x 2H x 2W; borders are replicated."""
        return linear(_doubled, x)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def binomial(size: int) -> Tensor:
    """The blur of a resampling, 1 x 1 x size x size: rows of Pascal's triangle, with sum 1."""
    row = torch.ones(1)
    for _ in range(size - 1):
        row = F.pad(row, (1, 0)) + F.pad(row, (0, 1))
    return (torch.outer(row, row) / row.sum() ** 2)[None, None]


class ResidualBlock(nn.Module):
    """x + body(x), or x + ReLU(body(x)) with `activated`, where body is two reflected 3x3 convolutions with norms."""

    def __init__(
        self,
        channels: int,
        *,
        norm: NormName = "instance",
        spectral: bool = False,
        dropout: float = 0.0,
        activated: bool = False,
    ) -> None:
        super().__init__()
        self.activated = activated
        middle: list[nn.Module] = [Dropout(dropout)] if dropout else []
        self.body = Chain(
            nn.Identity(),  # the layers keep the numbers that they have in published weight files
            convolution(channels, channels, 3, padding=1, reflects=True, norm=norm, spectral=spectral),
            normalisation(norm, channels),
            nn.ReLU(inplace=True),
            *middle,
            nn.Identity(),
            convolution(channels, channels, 3, padding=1, reflects=True, norm=norm, spectral=spectral),
            normalisation(norm, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        change = self.body(x)
        return x + (F.relu(change) if self.activated else change)


def convolution(
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    stride: int = 1,
    padding: int = 0,
    reflects: bool = False,
    norm: NormName | None = None,
    spectral: bool = False,
) -> nn.Conv2d:
    """A convolution, padded by zeros or reflection; without bias where a batch norm follows, which brings its own."""
    mode: Literal["zeros", "reflect"] = "reflect" if reflects else "zeros"
    layer = Conv2d(channels_in, channels_out, size, stride, padding, bias=norm != "batch", padding_mode=mode)
    if spectral:
        spectral_norm(layer)
    return layer


def normalisation(norm: NormName, channels: int) -> nn.Module:
    """Instance norm without weights or running statistics, batch norm with both, or nothing."""
    kinds: dict[NormName, Callable[[int], nn.Module]] = {
        "instance": InstanceNorm,
        "batch": BatchNorm,
        "none": nn.Identity,
    }
    return kinds[norm](channels)


def initialise(network: nn.Module, gain: float = 0.02, scheme: Literal["xavier", "normal", "he"] = "xavier") -> None:
    """Draw the first weights, from the global generator; biases are 0 and batch norms start near 1.

    Args:
        network: all its convolutions, linear layers and batch norms.
        gain: scale of the weights.
        scheme: `xavier` is Xavier-normal times the gain, as from CUT on; `normal` has the gain as its standard
            deviation whatever the layer's size, as in pix2pix and CycleGAN; `he` keeps the spread of the signal from
            layer to layer through ReLUs (He et al. 2015) and takes no gain: with optimisers whose steps have a size of
            their own, such as Adam's, larger first weights make a step relatively small.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            # under spectral norm the learnt weight is behind a parametrisation
            weights = dict(layer.named_parameters())
            weight = weights.get("parametrizations.weight.original", layer.weight)
            if scheme == "xavier":
                nn.init.xavier_normal_(weight, gain)
            elif scheme == "he":
                nn.init.kaiming_normal_(weight, nonlinearity="relu")
            else:
                nn.init.normal_(weight, 0.0, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, BatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.0 if scheme == "he" else gain)
            nn.init.zeros_(layer.bias)
