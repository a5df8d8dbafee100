"""CUT and FastCUT: contrastive unpaired translation (Park et al., ECCV 2020), the baseline of the field.

The IHC of a pair is only an example of the stain. `CutConfig()` is CUT; `fast=True` changes the defaults to
FastCUT: no identity term, ten times the weight on PatchNCE, flip equivariance.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.methods.base import Method, MethodConfig, Needs, Progress, descend, detached, frozen
from restain.methods.nce import NCE_TAPS, nce, nce_channels
from restain.networks.discriminator import Discriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.sampler import Sampler, sample_positions

FAST = {"identity": False, "lambda_nce": 10.0, "flip_equivariance": True}

DISCRIMINATOR_DEPTH = 3


class CutConfig(MethodConfig):
    """Settings of `cut`; the defaults are the authors'."""

    fast: bool = False
    """Take FastCUT's defaults for the fields that are not given."""
    width: int = Field(64, ge=1, le=4096)
    """Channels of the generator's and the discriminator's first convolution."""
    blocks: int = Field(9, ge=5, le=100)
    """Residual blocks of the generator; PatchNCE reads the fifth."""
    lambda_nce: float = Field(1.0, ge=0)
    """Weight of PatchNCE."""
    identity: bool = True
    """Also hold G(ihc) to the IHC by PatchNCE, and halve both terms."""
    flip_equivariance: bool = False
    """Mirror half of the inputs and compare their features mirrored back."""
    positions: int = Field(256, ge=2, le=2**20)
    """Places per tap for PatchNCE."""
    lr: float = Field(2e-4, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _fast_defaults(cls, given: Any) -> Any:
        return FAST | given if isinstance(given, dict) and given.get("fast") else given


class Cut(Method):
    """LSGAN + lambda_nce PatchNCE, with the identity term averaged in."""

    name = "cut"
    unpaired = True
    Config: ClassVar[type[MethodConfig]] = CutConfig

    def __init__(self, config: CutConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(GeneratorConfig(width=config.width, blocks=config.blocks, spectral_norm=False))
        self.discriminator = Discriminator(config.width, DISCRIMINATOR_DEPTH, spectral=False)
        self.sampler = Sampler(nce_channels(config.width), tiny_on="length")

    @classmethod
    def needs(cls, config: CutConfig) -> Needs:
        """Crops that the discriminator can judge."""
        return Needs(crop_px=smallest_px(DISCRIMINATOR_DEPTH))

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The discriminator, then generator and sampler."""
        he, mirrored = pair.he, None
        if self.config.flip_equivariance:
            draws = [torch.rand((), generator=g) for g in progress.image_generators(pair, "mirror")]
            mirrored = (torch.stack(draws) < 0.5).to(he.device, non_blocking=True).view(-1, 1, 1, 1)
            he = _mirror(he, mirrored)
        inputs = torch.cat([he, pair.ihc]) if self.config.identity else he
        outputs, features = self.generator.forward_with_features(inputs, NCE_TAPS)
        virtual = outputs[: len(he)]

        discriminator = self.discriminator
        scores = discriminator(torch.cat([pair.ihc, virtual.detach()]))
        judged = lsgan_discriminator_loss(*scores.chunk(2))
        descend(judged, optimizers["discriminator"])

        query = self.generator.features(outputs, NCE_TAPS)
        positions = sample_positions(query, progress.generator("positions"), self.config.positions)
        if mirrored is not None:
            # mirror back what was mirrored: key and query then show the same tissue in the given orientation
            flips = torch.cat([mirrored, torch.zeros_like(mirrored)]) if self.config.identity else mirrored
            query = {tap: _mirror(feature, flips) for tap, feature in query.items()}
            original = torch.cat([pair.he, pair.ihc]) if self.config.identity else pair.he
            with torch.no_grad():
                features = self.generator.features(original, NCE_TAPS)
        with frozen(discriminator):
            terms = {
                "gan": lsgan_generator_loss(discriminator(virtual)),
                "nce": self.config.lambda_nce * nce(self.sampler, query, features, positions),
            }
        descend(terms["gan"] + terms["nce"], optimizers["generator"], optimizers["sampler"])
        return {"discriminator/gan": judged.detach()} | detached(terms, "generator")

    def product(self) -> Generator:
        """The generator."""
        return self.generator


def _mirror(images: Tensor, which: Tensor) -> Tensor:
    """Mirror left to right the images (N x C x H x W) where `which` (N x 1 x 1 x 1) is true."""
    return torch.where(which, images.flip(-1), images)
