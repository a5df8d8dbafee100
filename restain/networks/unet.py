"""The U-Net generator of pix2pix (Isola et al. 2017): halve the image down to a few pixels, double it up again, join.

Skip connections carry fine structure past the narrow middle. It has batch norm: in evaluation mode each pixel depends
only on its surroundings within `halo_px`.
"""

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from restain.errors import ShapeError
from restain.networks.blocks import Dropout, NormName, initialise, normalisation

DROPPED_STAGES = (1, 2, 3)
"""Stages with dropout, counted from the first on the way up: the second to the fourth, as in the authors' PyTorch code,
where the paper says the first three."""


class UNetConfig(BaseModel):
    """Shape of a U-Net; the defaults are pix2pix's U-Net-256 (54.41 M weights).

    No convolution but the last has a bias: batch norms bring theirs, and the authors' code leaves it out where there is
    no norm, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int = Field(64, ge=1, le=4096)
    """Channels of the first convolution; they double with each halving, to at most eight times as many."""
    depth: int = Field(8, ge=2, le=16)
    """Halvings; sides must be multiples of 2^depth, 256 px for the default."""
    dropout: float = Field(0.5, ge=0.0, lt=1.0)
    """In the second to the fourth stage on the way up."""


class UNet(nn.Module):
    """H&E to virtual IHC, N x 3 x H x W to N x 3 x H x W in [-1, 1]; H and W must be multiples of 2^depth."""

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        channels = [config.width * min(2**level, 8) for level in range(config.depth)]
        last = config.depth - 1

        down: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, 2, 1, bias=False)]
        for level in range(1, config.depth):
            # the last has no norm: there may be but one pixel left to take statistics of
            norm: NormName = "batch" if level < last else "none"
            conv = nn.Conv2d(channels[level - 1], channels[level], 4, 2, 1, bias=False)
            down.append(nn.Sequential(nn.LeakyReLU(0.2, inplace=True), conv, normalisation(norm, channels[level])))

        up: list[nn.Module] = []
        for level in range(last, 0, -1):
            before, after = channels[level] * (1 if level == last else 2), channels[level - 1]
            drops = config.dropout > 0 and last - level in DROPPED_STAGES
            up.append(
                nn.Sequential(
                    nn.ReLU(inplace=True),
                    nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False),
                    normalisation("batch", after),
                    *([Dropout(config.dropout)] if drops else []),
                )
            )
        self.down = nn.ModuleList(down)
        self.up = nn.ModuleList(up)
        self.output = nn.Sequential(nn.ReLU(inplace=True), nn.ConvTranspose2d(2 * channels[0], 3, 4, 2, 1), nn.Tanh())
        initialise(self, scheme="normal")

    @property
    def multiple(self) -> int:
        """Sides must be multiples of this, px."""
        return 1 << self.config.depth

    @property
    def smallest_px(self) -> int:
        """The shortest side: one pixel is left at the coarsest scale."""
        return self.multiple

    @property
    def halo_px(self) -> int:
        """How far an input pixel reaches in the output, rounded up to `multiple`.

        At each scale a convolution of the way down reaches 1 px, and one of the way up 1 px of the next coarser scale:
        together three times the scale, 3 * (2^depth - 1). With the default depth that is 765 px, so 768.
        """
        return -(-3 * (self.multiple - 1) // self.multiple) * self.multiple

    def forward(self, he: Tensor) -> Tensor:
        """Down and up again.

        Raises:
            ShapeError: a side is no multiple of 2^depth.
        """
        height, width = he.shape[-2:]
        if height % self.multiple or width % self.multiple:
            fits = _halvings(height, width)
            raise ShapeError(
                f"a U-Net of depth {self.config.depth} halves its input {self.config.depth} times and needs sides that "
                f"are multiples of {self.multiple} px, but these images are {width} x {height}; "
                + (f"set depth to at most {fits}, or crop to a multiple" if fits > 1 else "crop to a multiple")
            )
        x, skips = he, []
        for stage in self.down:
            x = stage(x)
            skips.append(x)
        x = skips.pop()
        for stage in self.up:
            x = torch.cat([skips.pop(), stage(x)], dim=1)
        virtual: Tensor = self.output(x)
        return virtual


def _halvings(height: int, width: int) -> int:
    """How often both sides can be halved without a remainder."""
    both = height | width
    return (both & -both).bit_length() - 1
