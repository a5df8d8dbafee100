"""pix2pix: paired translation by a conditional adversarial network (Isola et al., CVPR 2017), the oldest baseline.

The neighbouring section is treated as pixel-wise truth. Where the sections are not registered, the L1 term blurs.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.losses.adversarial import bce_discriminator_loss, bce_generator_loss
from restain.losses.distance import l1_loss
from restain.methods.base import Method, MethodConfig, Needs, Progress, descend, detached, frozen, total
from restain.networks.blocks import initialise
from restain.networks.discriminator import Discriminator, smallest_px
from restain.networks.unet import UNet, UNetConfig

DISCRIMINATOR_DEPTH = 3
"""Halvings of the PatchGAN, which sees 70 px at a time."""


class Pix2pixConfig(MethodConfig):
    """Settings of `pix2pix`; the defaults are the authors'."""

    width: int = Field(64, ge=1, le=4096)
    """Channels of the generator's and the discriminator's first convolution."""
    depth: int = Field(8, ge=2, le=16)
    """Halvings of the U-Net; the crop must be a multiple of 2^depth px, so 7 for crops of 128."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """In three stages of the U-Net."""
    lambda_l1: float = Field(100.0, ge=0)
    """Weight of the L1 distance to the neighbouring section."""
    lr: float = Field(2e-4, gt=0)


class Pix2pix(Method):
    """Cross-entropy GAN + lambda_l1 L1.

    Both networks normalise by batch, as published, so a batch does not give what its images give one by one: in
    training mode they share statistics. Under `torchrun` each process takes those of its own share. In evaluation mode,
    where dropout is off too, images are independent; the paper leaves both on.
    """

    name = "pix2pix"
    Config: ClassVar[type[MethodConfig]] = Pix2pixConfig

    def __init__(self, config: Pix2pixConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = UNet(UNetConfig(width=config.width, depth=config.depth, dropout=config.dropout))
        self.discriminator = Discriminator(
            config.width, DISCRIMINATOR_DEPTH, channels=6, spectral=False, antialias=False, norm="batch"
        )
        initialise(self.discriminator, scheme="normal")

    @classmethod
    def needs(cls, config: Pix2pixConfig) -> Needs:
        """Crops of as many px as the U-Net makes one of, and that the discriminator can judge."""
        return Needs(crop_px=smallest_px(DISCRIMINATOR_DEPTH), crop_multiple=1 << config.depth)

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The discriminator, then the generator."""
        virtual = self.generator(pair.he)
        # one pass for real and one for virtual images: batch norm would mix their statistics
        judged = bce_discriminator_loss(
            self.discriminator(torch.cat([pair.he, pair.ihc], dim=1)),
            self.discriminator(torch.cat([pair.he, virtual.detach()], dim=1)),
        )
        descend(judged, optimizers["discriminator"])
        with frozen(self.discriminator):
            terms = {
                "gan": bce_generator_loss(self.discriminator(torch.cat([pair.he, virtual], dim=1))),
                "l1": self.config.lambda_l1 * l1_loss(virtual, pair.ihc),
            }
        descend(total(terms.values()), optimizers["generator"])
        return {"discriminator/gan": judged.detach()} | detached(terms, "generator")

    def product(self) -> UNet:
        """The generator."""
        return self.generator
