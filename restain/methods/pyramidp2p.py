"""PyramidP2P: pix2pix that compares at several octaves (Liu et al., BCI, CVPR Workshops 2022).

Sections that are shifted by a few pixels differ at full size and agree at an eighth of it, so the coarser octaves keep
the L1 distance meaningful where the finest one only blurs.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.losses.adversarial import bce_discriminator_loss, bce_generator_loss
from restain.losses.pyramid import octave_l1_losses
from restain.methods.base import Method, MethodConfig, Needs, Progress, descend, detached, frozen, total
from restain.networks.blocks import initialise
from restain.networks.discriminator import Discriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig

DISCRIMINATOR_DEPTH = 3
"""Halvings of the PatchGAN, which sees 70 px at a time."""


class PyramidP2PConfig(MethodConfig):
    """Settings of `pyramidp2p`; the defaults are the authors'."""

    width: int = Field(64, ge=1, le=4096)
    """Channels of the generator's and the discriminator's first convolution."""
    blocks: int = Field(9, ge=1, le=100)
    """Residual blocks of the generator."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """In the residual blocks."""
    lambda_l1: float = Field(25.0, ge=0)
    """Weight of the L1 distance in each octave."""
    octaves: int = Field(4, ge=1, le=16)
    """How many, the full size included."""
    lr: float = Field(2e-4, gt=0)


class PyramidP2P(Method):
    """Cross-entropy GAN + lambda_l1 times the sum of the L1 distances in all octaves.

    Both networks normalise by batch, as published, so a batch does not give what its images give one by one: in
    training mode they share statistics. Under `torchrun` each process takes those of its own share. In evaluation mode,
    where dropout is off too, images are independent.
    """

    name = "pyramidp2p"
    Config: ClassVar[type[MethodConfig]] = PyramidP2PConfig

    def __init__(self, config: PyramidP2PConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(
            GeneratorConfig(
                width=config.width,
                blocks=config.blocks,
                norm="batch",
                antialias=False,
                spectral_norm=False,
                dropout=config.dropout,
            )
        )
        self.discriminator = Discriminator(
            config.width, DISCRIMINATOR_DEPTH, channels=6, spectral=False, antialias=False, norm="batch"
        )
        initialise(self, scheme="normal")

    @classmethod
    def needs(cls, config: PyramidP2PConfig) -> Needs:
        """Crops that the discriminator can judge."""
        return Needs(crop_px=smallest_px(DISCRIMINATOR_DEPTH))

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The discriminator, then the generator."""
        virtual = self.generator(pair.he)
        # one pass for real and one for virtual images: batch norm would mix their statistics
        judged = bce_discriminator_loss(
            self.discriminator(torch.cat([pair.he, pair.ihc], dim=1)),
            self.discriminator(torch.cat([pair.he, virtual.detach()], dim=1)),
        )
        descend(judged, optimizers["discriminator"])
        distances = octave_l1_losses(virtual, pair.ihc, self.config.octaves)
        with frozen(self.discriminator):
            terms = {"gan": bce_generator_loss(self.discriminator(torch.cat([pair.he, virtual], dim=1)))}
        terms |= {f"l1_{2**octave}": self.config.lambda_l1 * distance for octave, distance in enumerate(distances)}
        descend(total(terms.values()), optimizers["generator"])
        return {"discriminator/gan": judged.detach()} | detached(terms, "generator")

    def product(self) -> Generator:
        """The generator."""
        return self.generator
