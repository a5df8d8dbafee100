"""PSPStain: learning that preserves pathological semantics (Chen et al., MICCAI 2024).

What adjacent sections agree in is how much protein there is and what stained tissue looks like, so that is compared:
focal optical density at three levels, and prototypes of a frozen segmenter's features across the two sections.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.losses.protein import focal_density, protein_losses
from restain.losses.prototypes import prototype_loss
from restain.losses.pyramid import PYRAMID_SMALLEST_PX, gaussian_pyramid_loss
from restain.losses.similarity import ms_ssim
from restain.losses.similarity import smallest_px as similarity_smallest_px
from restain.methods.base import (
    AuxiliaryModel,
    Method,
    MethodConfig,
    Needs,
    Progress,
    adam,
    descend,
    detached,
    frozen,
    total,
)
from restain.methods.nce import NCE_TAPS, nce, nce_channels
from restain.networks.discriminator import Discriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.sampler import Sampler, sample_positions
from restain.networks.segmenter import Segmenter
from restain.stains import to_unit


class PspStainConfig(MethodConfig):
    """Settings of `pspstain`; the defaults are the authors' but for `positive_density`."""

    width: int = Field(64, ge=2)
    """Channels of the first convolution of generator and segmenter; the discriminator has half as many."""
    discriminator_depth: int = Field(5, ge=2)
    """Stages of the discriminator; each halves the image, so that 5 need crops of at least 128 px."""
    lambda_nce: float = Field(1.0, ge=0)
    """Weight of PatchNCE."""
    lambda_pyramid: float = Field(10.0, ge=0)
    """Weight of the likeness to the real IHC at many scales."""
    lambda_protein: float = Field(1.0, ge=0)
    """Weight of each of the three levels of protein expression."""
    lambda_prototype: float = Field(2.5, ge=0)
    """Weight of the agreement with the other section's prototypes."""
    lambda_structure: float = Field(0.25, ge=0)
    """Weight of 1 - MS-SSIM."""
    structure_scales: int = Field(5, ge=1, le=5)
    """Scales of MS-SSIM; 5 need crops of at least 161 px, 4 of 81, 3 of 41."""
    positive_density: float = Field(0.0, ge=0)
    """Focal optical density above which a pixel is stained. The authors' 0.68 is a grey density of 0.81, which real
    tissue hardly reaches: 10 of 7.3 million pixels of the HER2 tiles that we measured."""
    positions: int = Field(256, ge=2)
    """Places per tap for PatchNCE."""
    lr: float = Field(2e-4, gt=0)
    """Base learning rate of generator and sampler."""
    discriminator_lr: float = Field(1e-5, gt=0)
    """Base learning rate of the discriminator, a twentieth of the generator's."""


class PspStain(Method):
    """LSGAN + PatchNCE + 10 pyramid + protein + 2.5 prototypes + 0.25 (1 - MS-SSIM).

    Departs from the paper in the scale of the protein terms (see `restain.losses.protein`), in where a pixel counts as
    stained, and in the segmenter, which is trained first on the data at hand.
    """

    name = "pspstain"
    Config: ClassVar[type[MethodConfig]] = PspStainConfig

    def __init__(self, config: PspStainConfig, segmenter: Segmenter) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(GeneratorConfig(width=config.width))
        self.discriminator = Discriminator(config.width // 2, config.discriminator_depth)
        self.sampler = Sampler(nce_channels(config.width))
        self.segmenter = segmenter.requires_grad_(False).eval()

    @classmethod
    def auxiliary(cls, config: PspStainConfig) -> dict[str, AuxiliaryModel]:
        """The segmenter, as wide as the generator and with the same idea of what is stained."""
        model = {"width": config.width, "positive_density": config.positive_density}
        return {"segmenter": AuxiliaryModel("segment", model=model, training={"epochs": 20, "decay_epochs": 10})}

    @classmethod
    def needs(cls, config: PspStainConfig) -> Needs:
        """Crops that hold so many halvings of the discriminator, scales of MS-SSIM, and levels of the pyramid."""
        scales_px = similarity_smallest_px(config.structure_scales)
        return Needs(crop_px=max(smallest_px(config.discriminator_depth), scales_px, PYRAMID_SMALLEST_PX))

    def train(self, mode: bool = True) -> "PspStain":
        """Keep the segmenter in evaluation mode: its batch norms would otherwise follow what the generator draws."""
        super().train(mode)
        self.segmenter.eval()
        return self

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam for each network that learns; slow for the discriminator."""
        config = self.config
        return {
            "generator": adam(self.generator, lr=config.lr),
            "discriminator": adam(self.discriminator, lr=config.discriminator_lr),
            "sampler": adam(self.sampler, lr=config.lr),
        }

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The discriminator, then generator and sampler."""
        config, discriminator = self.config, self.discriminator
        virtual, features = self.generator.forward_with_features(pair.he, NCE_TAPS)

        scores = discriminator(torch.cat([pair.ihc, virtual.detach()]))
        judged = lsgan_discriminator_loss(*scores.chunk(2))
        descend(judged, optimizers["discriminator"])

        positions = sample_positions(features, progress.generator("positions"), config.positions)
        query = self.generator.features(virtual, NCE_TAPS)
        with frozen(discriminator):
            terms = {
                "gan": lsgan_generator_loss(discriminator(virtual)),
                "nce": config.lambda_nce * nce(self.sampler, query, features, positions),
                "pyramid": config.lambda_pyramid * gaussian_pyramid_loss(virtual, pair.ihc),
            }
        terms |= self._semantics(virtual, pair.ihc)
        descend(total(terms.values()), optimizers["generator"], optimizers["sampler"])
        return {"discriminator/gan": judged.detach()} | detached(terms, "generator")

    def _semantics(self, virtual: Tensor, real: Tensor) -> dict[str, Tensor]:
        """How far the virtual IHC is from its neighbour in protein, prototypes and structure."""
        config = self.config
        virtual_rgb, real_rgb = to_unit(virtual.to(real.dtype)), to_unit(real)
        virtual_density, real_density = focal_density(virtual_rgb), focal_density(real_rgb)
        protein = protein_losses(virtual_density, real_density)
        with torch.no_grad():
            real_features = self.segmenter.features(real)
        prototypes = prototype_loss(
            self.segmenter.features(virtual),
            real_features,
            virtual_density > config.positive_density,
            real_density > config.positive_density,
        )
        similarity = ms_ssim(virtual_rgb, real_rgb, config.structure_scales).mean()
        return {f"protein_{level}": config.lambda_protein * loss for level, loss in protein.items()} | {
            "prototype": config.lambda_prototype * prototypes,
            "structure": config.lambda_structure * (1 - similarity),
        }

    def product(self) -> Generator:
        """The generator."""
        return self.generator
