"""PSPStain: learning that preserves pathological semantics (Chen et al., MICCAI 2024).

Adjacent sections agree in the amount of protein and the appearance of stained tissue, so these are compared: focal
optical density at three levels, and prototypes of a frozen segmenter's features across the two sections.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.losses.protein import focal_density, protein_losses
from restain.losses.prototypes import prototype_loss
from restain.losses.pyramid import PYRAMID_SMALLEST_PX, gaussian_pyramid_loss
from restain.losses.similarity import ms_ssim, ms_ssim_smallest_px
from restain.methods.base import (
    AuxiliaryModel,
    Method,
    MethodConfig,
    Needs,
    Progress,
    adam,
    batch_sum,
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

CORRECTED: dict[str, Any] = {
    "unit_range": True,
    "least_density": 0.033,
    "positive_density": 0.05,
    "segmenter_training": False,
    "softmaxes": 1,
    "batch_sum": False,
}
"""What the `corrected` profile sets differently; a profile is nothing but a set of defaults."""


class PspStainConfig(MethodConfig):
    """Settings of `pspstain`; the defaults are the published code's, which made the published figures."""

    profile: Literal["published", "corrected"] = "published"
    """Which defaults the fields that are not given take: the published code's, or those of what the text means."""
    width: int = Field(64, ge=2, le=4096)
    """Channels of the generator's first convolution; discriminator and segmenter have half as many."""
    discriminator_depth: int = Field(5, ge=2, le=16)
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
    unit_range: bool = False
    """Measure the focal density of images in [0, 1]; otherwise of images in [-1, 1], where all that is darker than
    mid-grey counts as black."""
    least_density: float = Field(0.15, ge=0)
    """Focal density below which the protein's mean and blocks count no stain."""
    positive_density: float = Field(0.68, gt=0)
    """Focal density from which a pixel is stained."""
    segmenter_training: bool = True
    """Leave the frozen segmenter in training mode: batch norm over the two images of a pair, dropout on."""
    softmaxes: Literal[1, 2] = 2
    """Softmaxes between cosines and cross-entropy; the second takes probabilities as scores."""
    batch_sum: bool = True
    """Sum the protein's mean and the prototypes over the images of a batch, of which other terms are the mean."""
    positions: int = Field(256, ge=2, le=2**20)
    """Places per tap for PatchNCE."""
    lr: float = Field(1e-4, gt=0)
    """Base learning rate of generator and sampler."""
    discriminator_lr: float = Field(5e-6, gt=0)
    """Base learning rate of the discriminator, a twentieth of the generator's."""

    @model_validator(mode="before")
    @classmethod
    def _profile_defaults(cls, given: Any) -> Any:
        return CORRECTED | given if isinstance(given, dict) and given.get("profile") == "corrected" else given


class PspStain(Method):
    """LSGAN + PatchNCE + 10 pyramid + protein + 2.5 prototypes + 0.25 (1 - MS-SSIM).

    Departs from the published code in the weights of the segmenter, which is trained first on the data at hand.
    """

    name = "pspstain"
    Config: ClassVar[type[MethodConfig]] = PspStainConfig

    def __init__(self, config: PspStainConfig, segmenter: Segmenter) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(GeneratorConfig(width=config.width))
        self.discriminator = Discriminator(config.width // 2, config.discriminator_depth)
        self.sampler = Sampler(nce_channels(config.width))
        self.segmenter = segmenter.requires_grad_(False)
        for layer in segmenter.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.track_running_stats = False  # in training mode too, it keeps what it has learned

    @classmethod
    def auxiliary(cls, config: PspStainConfig) -> dict[str, AuxiliaryModel]:
        """The segmenter, half as wide as the generator and with the same idea of what is stained."""
        model = {
            "width": config.width // 2,
            "unit_range": config.unit_range,
            "positive_density": config.positive_density,
        }
        return {"segmenter": AuxiliaryModel("segment", model=model, training={"epochs": 20, "decay_epochs": 10})}

    @classmethod
    def needs(cls, config: PspStainConfig) -> Needs:
        """Crops that hold so many halvings of the discriminator, scales of MS-SSIM, and levels of the pyramid."""
        scales_px = ms_ssim_smallest_px(config.structure_scales)
        return Needs(crop_px=max(smallest_px(config.discriminator_depth), scales_px, PYRAMID_SMALLEST_PX))

    def train(self, mode: bool = True) -> "PspStain":
        """Keep the segmenter in the mode that the settings say."""
        super().train(mode)
        self.segmenter.train(mode and self.config.segmenter_training)
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
        config, virtual = self.config, virtual.to(real.dtype)
        whole = batch_sum if config.batch_sum else torch.mean
        densities = [focal_density(to_unit(images) if config.unit_range else images) for images in (virtual, real)]
        protein = protein_losses(densities[0], densities[1], config.least_density)
        levels = {
            "protein_mean": whole(protein["mean"]),
            "protein_histogram": protein["histogram"].mean(),
            "protein_blocks": protein["blocks"].mean(),
        }
        masks = [density >= config.positive_density for density in densities]
        prototypes = torch.stack(
            [self._prototypes(virtual[i], real[i], torch.stack([mask[i] for mask in masks])) for i in range(len(real))]
        )
        similarity = ms_ssim(to_unit(virtual), to_unit(real), config.structure_scales).mean()
        return {name: config.lambda_protein * loss for name, loss in levels.items()} | {
            "prototype": config.lambda_prototype * whole(prototypes),
            "structure": config.lambda_structure * (1 - similarity),
        }

    def _prototypes(self, virtual: Tensor, real: Tensor, masks: Tensor) -> Tensor:
        """Of one pair, 3 x H x W each; its two images go through the segmenter together."""
        features = self.segmenter.features(torch.stack([virtual, real]))
        return prototype_loss(features, self.segmenter.head(features), masks, self.config.softmaxes)

    def product(self) -> Generator:
        """The generator."""
        return self.generator
