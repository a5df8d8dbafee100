"""LPIPS, the learned perceptual distance (Zhang et al. 2018), on AlexNet or VGG-16 without their classifiers.

The convolutions carry the names of the public ImageNet weights, to load them without torchvision.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Backbone = Literal["alex", "vgg"]
CHANNELS: dict[Backbone, tuple[int, ...]] = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}
"""Of the five layers that are compared."""


class Lpips(nn.Module):
    """Distance of two images: differences of unit-length features, squared, weighed per channel, averaged, added up."""

    shift: Tensor
    scale: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1), persistent=False)
        self.features, self._taps = _alexnet() if backbone == "alex" else _vgg16()
        self.heads = nn.ParameterList(nn.Parameter(torch.ones(width)) for width in CHANNELS[backbone])

    def forward(self, virtual: Tensor, real: Tensor) -> Tensor:
        """Two batches, N x 3 x H x W in [0, 1], to N distances of at least 0."""
        distance = virtual.new_zeros(len(virtual))
        x = (torch.cat([virtual, real]) * 2 - 1 - self.shift) / self.scale
        heads = iter(self.heads)
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in self._taps:
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
                difference = (unit[: len(virtual)] - unit[len(virtual) :]).square()
                distance = distance + F.conv2d(difference, next(heads).view(1, -1, 1, 1)).mean((1, 2, 3))
        return distance


def _alexnet() -> tuple[nn.Sequential, tuple[int, ...]]:
    """The layers that the public weights number, and the ReLUs whose output is compared."""
    layers = nn.Sequential(
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(),
    )  # fmt: skip
    return layers, (1, 4, 7, 9, 11)


def _vgg16() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers: list[nn.Module] = []
    taps, channels = [], 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        if layers:
            layers.append(nn.MaxPool2d(2))
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        taps.append(len(layers) - 1)
    return nn.Sequential(*layers), tuple(taps)
