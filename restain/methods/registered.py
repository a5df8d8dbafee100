"""Learn from registered pairs: pixels, local structure and a conditional discriminator, on batch norm; our own recipe.

Nothing in it is new. The conditional adversarial term beside a pixel distance is pix2pix's (Isola et al. 2017), least
squares are LSGAN's (Mao et al. 2017), SSIM as a loss is Zhao et al.'s (2017), the generator is Johnson et al.'s (2016)
with the residual blocks of the CUT family. What is ours is the choice, made by measuring what stains best per minute
on pairs in register.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.losses.density import density_loss
from restain.losses.distance import l1_loss
from restain.losses.similarity import WINDOW_PX, ssim_loss
from restain.methods.base import Method, MethodConfig, Needs, Progress, adam, descend, detached, frozen, total
from restain.networks.blocks import initialise
from restain.networks.discriminator import Discriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.normalisation import BatchNorm

DISCRIMINATOR_DEPTH = 3
"""Halvings of the discriminator, which sees 70 px at a time."""


class RegisteredConfig(MethodConfig):
    """Settings of `registered`; the defaults are those of `restain-base`."""

    width: int = Field(48, ge=1, le=4096)
    """Channels of the generator's first convolution."""
    blocks: int = Field(6, ge=1, le=100)
    """Residual blocks of the generator."""
    discriminator_width: int = Field(32, ge=1, le=4096)
    """Channels of the discriminator's first convolution."""
    lambda_l1: float = Field(1.0, ge=0)
    """Weight of the L1 distance to the IHC in register."""
    lambda_ssim: float = Field(0.5, ge=0)
    """Weight of 1 - SSIM."""
    lambda_density: float = Field(5.0, ge=0)
    """Weight of the mean square of the difference in optical density."""
    lambda_gan: float = Field(0.02, ge=0)
    """Weight of the adversarial term."""
    batch_norm_until: float = Field(0.5, ge=0, le=1)
    """Share of the steps in which norms go by the batch; afterwards by what they have collected, as in staining."""
    lr: float = Field(5e-4, gt=0)
    """Rate of the generator."""
    discriminator_lr: float = Field(2e-4, gt=0)
    """Rate of the discriminator."""


class Registered(Method):
    """lambda_l1 L1 + lambda_ssim (1 - SSIM) + lambda_density MSE of densities + lambda_gan conditional LSGAN.

    The generator normalises by batch at first, so a batch does not give what its images give one by one; under
    `torchrun` each process takes the statistics of its own share. Later, and once trained, its norms are fixed: each
    pixel depends on its surroundings alone, and bare glass beside tissue changes nothing in the tissue. Without steps
    under fixed norms, what no batch is full of comes out wrong: large areas of glass turned yellow.
    """

    name = "registered"
    Config: ClassVar[type[MethodConfig]] = RegisteredConfig

    def __init__(self, config: RegisteredConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(
            GeneratorConfig(width=config.width, blocks=config.blocks, norm="batch", spectral_norm=False)
        )
        initialise(self.generator, scheme="he")
        self.discriminator = Discriminator(
            config.discriminator_width, DISCRIMINATOR_DEPTH, channels=6, antialias=False, norm="none"
        )
        initialise(self.discriminator, gain=1.0)  # under spectral norm: a step is small beside weights of usual size

    @classmethod
    def needs(cls, config: RegisteredConfig) -> Needs:
        """Crops that the discriminator can judge, and that hold SSIM's window."""
        return Needs(crop_px=max(smallest_px(DISCRIMINATOR_DEPTH), WINDOW_PX))

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam for each network; the generator's without the low beta1 of adversarial training."""
        return {
            "generator": adam(self.generator, lr=self.config.lr, betas=(0.9, 0.99)),
            "discriminator": adam(self.discriminator, lr=self.config.discriminator_lr, betas=(0.5, 0.99)),
        }

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The discriminator, then the generator."""
        by_batch = progress.step < self.config.batch_norm_until * progress.steps
        for layer in self.generator.modules():
            if isinstance(layer, BatchNorm):
                layer.train(by_batch)
        virtual = self.generator(pair.he)
        judged = lsgan_discriminator_loss(
            self.discriminator(torch.cat([pair.he, pair.ihc], dim=1)),
            self.discriminator(torch.cat([pair.he, virtual.detach()], dim=1)),
        )
        descend(judged, optimizers["discriminator"])
        with frozen(self.discriminator):
            terms = {
                "l1": self.config.lambda_l1 * l1_loss(virtual, pair.ihc),
                "ssim": self.config.lambda_ssim * ssim_loss(virtual, pair.ihc),
                "density": self.config.lambda_density * density_loss(virtual, pair.ihc),
                "gan": self.config.lambda_gan
                * lsgan_generator_loss(self.discriminator(torch.cat([pair.he, virtual], dim=1))),
            }
        descend(total(terms.values()), optimizers["generator"])
        return {"discriminator/gan": judged.detach()} | detached(terms, "generator")

    def product(self) -> Generator:
        """The generator."""
        return self.generator

    def sample(self, pair: Pair) -> dict[str, Tensor]:
        """H&E, virtual IHC and the real IHC in register."""
        return {"H&E": pair.he, "virtual": self.generator(pair.he), "real": pair.ihc}
