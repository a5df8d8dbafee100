"""Task-gap alignment (VSMT): features learned for other tasks become guidance in the generator's own terms."""

import torch
from torch import Tensor, nn

from restain.networks.blocks import Chain, initialise
from restain.networks.convolution import Conv2d
from restain.networks.normalisation import InstanceNorm

SLOPE = 0.01
"""Of every LeakyReLU here, on numbers below 0."""


class Fusion(nn.Module):
    """M_ta at one level: multi-task features of H&E and rearranged IHC to guidance on the generator's features.

    Two inputs N x 2C x h x w, output N x C x h x w. Compress each (1x1, 3x3, 3x3), concatenate, fuse (1x1, 3x3), add a
    residual of three 3x3.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.compress_he = Chain(*[_layer(2 * channels, channels, 1), *_layers(channels, 2)])
        self.compress_ihc = Chain(*[_layer(2 * channels, channels, 1), *_layers(channels, 2)])
        self.fuse = Chain(_layer(2 * channels, channels, 1), *_layers(channels, 1))
        self.refine = Chain(*_layers(channels, 3))
        initialise(self)

    def forward(self, he: Tensor, ihc: Tensor) -> Tensor:
        """Guidance to add to the generator's features."""
        fused: Tensor = self.fuse(torch.cat([self.compress_he(he), self.compress_ihc(ihc)], dim=1))
        residual: Tensor = self.refine(fused)
        return fused + residual


def mean_over_tasks(he: Tensor, ihc: Tensor) -> Tensor:
    """Guidance without task-gap alignment: the mean of the four tasks' features; N x 2C x h x w each to N x C x h x w.

    The ablation rows without M_ta need features in the generator's shape without anything learned; the paper does not
    say how.
    """
    return torch.stack([*he.chunk(2, dim=1), *ihc.chunk(2, dim=1)]).mean(dim=0)


class Projector(nn.Module):
    """P: before features are compared, 1x1 convolution, instance norm, LeakyReLU, twice; N x C to N x C/2 channels.

    Its weights start as PyTorch draws them, unlike those of every other network here, and some 27 times as large.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.layers = Chain(
            Conv2d(channels, half, 1, bias=False),
            InstanceNorm(half),
            nn.LeakyReLU(SLOPE, inplace=True),
            Conv2d(half, half, 1, bias=False),
            InstanceNorm(half),
            nn.LeakyReLU(SLOPE, inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features in the space where they are compared."""
        projected: Tensor = self.layers(features)
        return projected


def _layer(channels_in: int, channels_out: int, size: int) -> Chain:
    conv = Conv2d(channels_in, channels_out, size, padding=size // 2, padding_mode="reflect")
    return Chain(conv, InstanceNorm(channels_out), nn.LeakyReLU(SLOPE, inplace=True))


def _layers(channels: int, count: int) -> list[nn.Module]:
    return [_layer(channels, channels, 3) for _ in range(count)]
