"""ASP: adaptive supervised PatchNCE (Li et al., MICCAI 2023), for neighbouring sections that are not quite in register.

To CUT it adds supervision by the neighbour: multi-scale similarity, and PatchNCE between virtual and real IHC, where
consistent positions gain weight during training.
"""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.losses.contrastive import adaptive_patch_nce, patch_nce
from restain.losses.pyramid import PYRAMID_SMALLEST_PX, gaussian_pyramid_loss
from restain.methods.base import Method, MethodConfig, Needs, Progress, batch_mean, descend, detached, frozen, total
from restain.methods.nce import NCE_TAPS, mean_over_taps, nce_channels
from restain.networks.discriminator import Discriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.sampler import Sampler, sample_positions


class AspConfig(MethodConfig):
    """Settings of `asp`; the defaults are the authors'."""

    width: int = Field(64, ge=2, le=4096)
    """Channels of the generator's first convolution; the discriminator has half as many."""
    discriminator_depth: int = Field(5, ge=2, le=16)
    """Stages of the discriminator; each halves the image, so that 5 need crops of at least 128 px."""
    lambda_nce: float = Field(10.0, ge=0)
    """Weight of PatchNCE between H&E and virtual IHC."""
    lambda_pyramid: float = Field(10.0, ge=0)
    """Weight of the likeness to the real IHC at many scales."""
    lambda_asp: float = Field(10.0, ge=0)
    """Weight of the adaptive PatchNCE between virtual and real IHC."""
    positions: int = Field(256, ge=2, le=2**20)
    """Places per tap for both."""
    lr: float = Field(2e-4, gt=0)


class Asp(Method):
    """LSGAN + 10 PatchNCE + 10 pyramid + 10 adaptive PatchNCE.

    All places count alike until the decay; then, epoch by epoch, less and less whether they agree or not. Their weights
    have a mean of 1 over the batch, so that a batch is not the mean of its images. Departs from the published code in
    drawing the places of a step once, for both contrasts.
    """

    name = "asp"
    Config: ClassVar[type[MethodConfig]] = AspConfig

    def __init__(self, config: AspConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(GeneratorConfig(width=config.width))
        self.discriminator = Discriminator(config.width // 2, config.discriminator_depth)
        self.sampler = Sampler(nce_channels(config.width))

    @classmethod
    def needs(cls, config: AspConfig) -> Needs:
        """Crops large enough for the discriminator and the pyramid."""
        return Needs(crop_px=max(smallest_px(config.discriminator_depth), PYRAMID_SMALLEST_PX))

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The discriminator, then generator and sampler."""
        config, discriminator = self.config, self.discriminator
        virtual, features = self.generator.forward_with_features(pair.he, NCE_TAPS)

        scores = discriminator(torch.cat([pair.ihc, virtual.detach()]))
        judged = lsgan_discriminator_loss(*scores.chunk(2))
        descend(judged, optimizers["discriminator"])

        positions = sample_positions(features, progress.generator("positions"), config.positions)
        with torch.no_grad():
            source = self.sampler(features, positions)
            target = self.sampler(self.generator.features(pair.ihc, NCE_TAPS), positions)
        query = self.sampler(self.generator.features(virtual, NCE_TAPS), positions)
        adaptive = partial(adaptive_patch_nce, evenness=progress.decay_left, mean=batch_mean)
        with frozen(discriminator):
            terms = {
                "gan": lsgan_generator_loss(discriminator(virtual)),
                "nce": config.lambda_nce * mean_over_taps(patch_nce, query, source),
                "pyramid": config.lambda_pyramid * gaussian_pyramid_loss(virtual, pair.ihc),
                "asp": config.lambda_asp * mean_over_taps(adaptive, query, target),
            }
        descend(total(terms.values()), optimizers["generator"], optimizers["sampler"])
        return {"discriminator/gan": judged.detach()} | detached(terms, "generator")

    def product(self) -> Generator:
        """The generator."""
        return self.generator
