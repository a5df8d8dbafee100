"""SIM-GAN: supervised information mined from weakly paired images (Guan et al., IEEE TMI 2025).

To CUT it adds two relations that hold although the sections differ: similarities among virtual IHC equal those among
real ones, and positions of real and virtual IHC relate as those of H&E and real IHC do.
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
from restain.losses.contrastive import patch_nce
from restain.losses.relations import correlation_loss, transport_loss
from restain.methods.base import Method, MethodConfig, Needs, Progress, descend, detached, frozen, total
from restain.methods.nce import NCE_TAPS, mean_over_taps, nce_channels
from restain.networks.discriminator import Discriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.sampler import Sampler, sample_positions


class SimGanConfig(MethodConfig):
    """Settings of `simgan`; the defaults are the authors'."""

    width: int = Field(64, ge=2, le=4096)
    """Channels of the generator's first convolution; the discriminator has half as many."""
    blocks: int = Field(6, ge=5, le=100)
    """Residual blocks of the generator; PatchNCE reads the fifth."""
    discriminator_depth: int = Field(5, ge=2, le=16)
    """Stages of the discriminator; each halves the image, so that 5 need crops of at least 128 px."""
    lambda_nce: float = Field(1.0, ge=0)
    """Weight of PatchNCE, the mean of its terms on H&E and on IHC."""
    lambda_correlation: float = Field(10.0, ge=0)
    """Weight of the likeness among the images of a batch; at 0 it is left out, and a batch may be a single image."""
    lambda_transport: float = Field(10_000.0, ge=0)
    """Weight of the difference between transport plans, whose entries are of the order of 1 / positions."""
    transport_epsilon: float = Field(1.0, ge=0.05)
    """Entropic regularisation of the plans, in units of cosine distance."""
    transport_iterations: int = Field(50, ge=1, le=10**6)
    """Times that their rows and columns are brought to their masses."""
    positions: int = Field(256, ge=2, le=2**20)
    """Places per tap for all terms."""
    lr: float = Field(2e-4, gt=0)


class SimGan(Method):
    """LSGAN + PatchNCE with identity + 10 correlation + 10000 transport, both as means over PatchNCE's taps.

    The correlation is taken on whole maps of the encoder, the transport on what the sampler makes of them at PatchNCE's
    places. Under `torchrun` the correlation is among the images of each process. Departs from the published launch on 4
    GPUs in the plans: one for each image, where 4 images of 256 places shared one of 1024, so that the transport of a
    batch is the mean of its images.
    """

    name = "simgan"
    Config: ClassVar[type[MethodConfig]] = SimGanConfig

    def __init__(self, config: SimGanConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(GeneratorConfig(width=config.width, blocks=config.blocks))
        self.discriminator = Discriminator(config.width // 2, config.discriminator_depth)
        self.sampler = Sampler(nce_channels(config.width))

    @classmethod
    def needs(cls, config: SimGanConfig) -> Needs:
        """Two images, as long as they are compared with one another; crops that the discriminator can halve."""
        return Needs(images=2 if config.lambda_correlation else 1, crop_px=smallest_px(config.discriminator_depth))

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The discriminator, then generator and sampler."""
        config, discriminator = self.config, self.discriminator
        outputs, features = self.generator.forward_with_features(torch.cat([pair.he, pair.ihc]), NCE_TAPS)
        virtual = outputs.chunk(2)[0]

        scores = discriminator(torch.cat([pair.ihc, virtual.detach()]))
        judged = lsgan_discriminator_loss(*scores.chunk(2))
        descend(judged, optimizers["discriminator"])

        positions = sample_positions(features, progress.generator("positions"), config.positions)
        with torch.no_grad():
            key = self.sampler(features, positions)
        found = self.generator.features(outputs, NCE_TAPS)
        query = self.sampler(found, positions)
        source, target = _halves(key)
        generated, _ = _halves(query)
        transport = partial(transport_loss, epsilon=config.transport_epsilon, iterations=config.transport_iterations)
        with frozen(discriminator):
            terms = {
                "gan": lsgan_generator_loss(discriminator(virtual)),
                "nce": config.lambda_nce * mean_over_taps(patch_nce, query, key),
                "transport": config.lambda_transport * mean_over_taps(transport, generated, source, target),
            }
        if config.lambda_correlation:
            correlation = mean_over_taps(correlation_loss, _halves(found)[0], _halves(features)[1])
            terms["correlation"] = config.lambda_correlation * correlation
        descend(total(terms.values()), optimizers["generator"], optimizers["sampler"])
        return {"discriminator/gan": judged.detach()} | detached(terms, "generator")

    def product(self) -> Generator:
        """The generator."""
        return self.generator


def _halves(embedded: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What belongs to H&E and what to IHC, from taps of both (2N x ...)."""
    he = {tap: both.chunk(2)[0] for tap, both in embedded.items()}
    ihc = {tap: both.chunk(2)[1] for tap, both in embedded.items()}
    return he, ihc
