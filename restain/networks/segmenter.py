"""A U-Net that marks stained pixels (Ronneberger et al. 2015), whose features PSPStain compares."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from restain.networks.blocks import Dropout, convolution, initialise, normalisation

DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Rates on the way down, from fine to coarse; none on the way up."""
SLOPE = 0.01
"""Of LeakyReLU."""


class SegmenterConfig(BaseModel):
    """Shape of a segmenter; the defaults are PSPStain's, with 1.85 M weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    channels: tuple[int, ...] = Field((32, 32, 64, 128, 256), min_length=2, max_length=len(DROPOUT))
    """Channels at each size, from fine to coarse; each is half the one before."""

    @classmethod
    def of_width(cls, width: int) -> "SegmenterConfig":
        """The published proportions with `width` channels at full size."""
        return cls(channels=(width, width, 2 * width, 4 * width, 8 * width))


class Segmenter(nn.Module):
    """Mark stain: N x 3 x H x W in [-1, 1] to N x 2 x H x W logits, unstained and stained; sides of at least 16 px.

    Two 3x3 convolutions with batch norm at each size, max pooling down, bilinear interpolation up. Batch norm, because
    it keeps how strong a stain is, which instance norm would take away. Departs from the published network in giving
    no bias to a convolution before a batch norm, which takes it away again.
    """

    def __init__(self, config: SegmenterConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SegmenterConfig()
        sizes = list(pairwise(config.channels))
        self.stem = _two_convolutions(3, config.channels[0], DROPOUT[0])
        self.down = nn.ModuleList(
            _two_convolutions(fine, coarse, rate) for (fine, coarse), rate in zip(sizes, DROPOUT[1:], strict=False)
        )
        self.squeeze = nn.ModuleList(convolution(coarse, fine, 1) for fine, coarse in reversed(sizes))
        self.up = nn.ModuleList(_two_convolutions(2 * fine, fine) for fine, _ in reversed(sizes))
        self.head = convolution(config.channels[0], 2, 3, padding=1)
        initialise(self)
        nn.init.xavier_normal_(self.head.weight)  # no norm follows that would make small weights large

    def features(self, images: Tensor) -> Tensor:
        """What the marks are read from, N x C x H x W; `head` reads them."""
        x: Tensor = self.stem(images)
        skipped = []
        for layer in self.down:
            skipped.append(x)
            x = layer(F.max_pool2d(x, 2))
        for squeeze, layer, fine in zip(self.squeeze, self.up, reversed(skipped), strict=True):
            grown = F.interpolate(squeeze(x), size=fine.shape[-2:], mode="bilinear", align_corners=True)
            x = layer(torch.cat([fine, grown], dim=1))
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Two logits per pixel."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _two_convolutions(channels_in: int, channels_out: int, dropout: float = 0.0) -> nn.Sequential:
    """Convolution, batch norm, LeakyReLU, twice, with dropout in between where there is any."""
    layers: list[nn.Module] = []
    for channels, rate in ((channels_in, dropout), (channels_out, 0.0)):
        layer = convolution(channels, channels_out, 3, padding=1, norm="batch")
        layers += [layer, normalisation("batch", channels_out), nn.LeakyReLU(SLOPE)]
        layers += [Dropout(rate)] if rate else []
    return nn.Sequential(*layers)
