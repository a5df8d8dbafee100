"""A U-Net that marks stained pixels (Ronneberger et al. 2015), whose features PSPStain compares."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from restain.networks.blocks import convolution, initialise, normalisation


class SegmenterConfig(BaseModel):
    """Shape of a segmenter; the defaults have 19.6 M weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(64, ge=1)
    """Channels at full size; they double with each halving, to at most eight times as many."""
    depth: int = Field(4, ge=1)
    """Halvings."""


class Segmenter(nn.Module):
    """Mark stain: N x 3 x H x W in [-1, 1] to N x 1 x H x W logits, at any size of at least 2^depth px.

    Two 3x3 convolutions with batch norm at each size, max pooling down, bilinear interpolation up. Batch norm, because
    it keeps how strong a stain is, which instance norm would take away; a frozen segmenter must be in evaluation mode.
    """

    def __init__(self, config: SegmenterConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or SegmenterConfig()
        channels = [config.width * min(2**level, 8) for level in range(config.depth + 1)]
        pairs = list(pairwise(channels))
        self.stem = _two_convolutions(3, config.width)
        self.down = nn.ModuleList(_two_convolutions(fine, coarse) for fine, coarse in pairs)
        self.up = nn.ModuleList(_two_convolutions(fine + coarse, fine) for fine, coarse in reversed(pairs))
        self.head = nn.Conv2d(config.width, 1, 1)
        initialise(self)
        nn.init.xavier_normal_(self.head.weight)  # no norm follows that would make small weights large

    def features(self, images: Tensor) -> Tensor:
        """What the marks are read from, N x width x H x W."""
        x: Tensor = self.stem(images)
        skipped = []
        for layer in self.down:
            skipped.append(x)
            x = layer(F.max_pool2d(x, 2))
        for layer, fine in zip(self.up, reversed(skipped), strict=True):
            grown = F.interpolate(x, size=fine.shape[-2:], mode="bilinear", align_corners=False)
            x = layer(torch.cat([fine, grown], dim=1))
        return x

    def forward(self, images: Tensor) -> Tensor:
        """One logit per pixel, above 0 where there is stain."""
        logits: Tensor = self.head(self.features(images))
        return logits


def _two_convolutions(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (channels_in, channels_out):
        layer = convolution(channels, channels_out, 3, padding=1, norm="batch")
        layers += [layer, normalisation("batch", channels_out), nn.ReLU()]
    return nn.Sequential(*layers)
