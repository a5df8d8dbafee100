"""TDKStain: paired translation that knows what a HER2 reader looks at (MICCAI 2024): nuclei and stained membranes.

Source: "Advancing H&E-to-IHC Virtual Staining with Task-Specific Domain Knowledge for HER2 Scoring". Two branches join
a paired adversarial network: one stains only the tissue that is positive in the neighbouring section, one holds the
nuclei of the virtual IHC to the density of the real ones.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.errors import InputError
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.losses.distance import l1_loss
from restain.methods.base import Method, MethodConfig, Needs, Progress, descend, detached, frozen, total
from restain.networks.blocks import ResidualBlock, convolution, initialise, normalisation
from restain.networks.discriminator import Discriminator, MultiscaleDiscriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig
from restain.stains import from_unit, hed_to_rgb, rgb_to_hed, to_unit
from restain.tensors import full_precision

DISCRIMINATOR_DEPTH = 3
"""Halvings of each discriminator, which sees 70 px at a time."""

ESTIMATOR_BLOCKS = 4
"""Residual blocks of the estimator of densities."""

SATURATION = 0.15
"""Colour saturation above which the separated DAB counts as stain: an optical density of about 0.14."""

MASK_BLUR_PX = 3.0
"""Standard deviation of the Gaussian that softens the edges of the mask."""

MASK_REACH_PX = 4
"""How far that Gaussian reaches."""


class TdkStainConfig(MethodConfig):
    """Settings of `tdkstain`; the defaults are the authors', but for how nuclei are found, which is ours."""

    width: int = Field(64, ge=1, le=4096)
    """Channels of the generator's and the discriminators' first convolution."""
    blocks: int = Field(9, ge=1, le=100)
    """Residual blocks of the generator."""
    downsamplings: int = Field(3, ge=1, le=16)
    """Halvings of the generator; the crop must be a multiple of 2^downsamplings px."""
    scales: int = Field(3, ge=1, le=16)
    """Discriminators, each at half the size of the one before; the coarsest needs 32 px."""
    lambda_l1: float = Field(10.0, ge=0)
    """Weight of the L1 distance to the neighbouring section."""
    lambda_dab: float = Field(10.0, ge=0)
    """Weight of the L1 distance between what the positive tissue alone becomes and the neighbour's DAB alone."""
    lambda_nuclei: float = Field(10.0, ge=0)
    """Weight of the squared difference of the densities of nuclei: on real IHC for the estimator, on virtual IHC for
    the generator."""
    nucleus_px: int = Field(13, ge=6, le=2**10)
    """Diameter of a typical nucleus; 13 px are 6 µm at 0.46 µm per pixel."""
    marker: Literal["nuclear", "membrane"] = "membrane"
    """Where DAB lies on positive cells; `nuclear` (ER, PR, Ki67) counts DAB as nuclear stain, too."""
    lr: float = Field(2e-4, gt=0)


class TdkStain(Method):
    """LSGAN + lambda_l1 L1 + lambda_dab L1 of the DAB branch + lambda_nuclei MSE of the nuclei branch.

    The H&E is multiplied by the mask, so that outside it is mid-grey, 0 in [-1, 1]. The density of nuclei comes with
    the pair, from `restain.data.nuclei`: whatever finds nuclei may stand in for the authors' detector.
    """

    name = "tdkstain"
    Config: ClassVar[type[MethodConfig]] = TdkStainConfig

    def __init__(self, config: TdkStainConfig) -> None:
        super().__init__()
        self.config = config
        self.generator = Generator(
            GeneratorConfig(
                width=config.width,
                blocks=config.blocks,
                downsamplings=config.downsamplings,
                antialias=False,
                spectral_norm=False,
            )
        )
        self.discriminator = MultiscaleDiscriminator(
            *(
                Discriminator(config.width, DISCRIMINATOR_DEPTH, channels=6, spectral=False, antialias=False)
                for _ in range(config.scales)
            )
        )
        self.taps = [f"shrink{halving}" for halving in range(1, config.downsamplings + 1)]
        self.estimator = DensityEstimator(config.width * (2 ** (config.downsamplings + 1) - 2), 2 * config.width)
        initialise(self, scheme="normal")

    @classmethod
    def needs(cls, config: TdkStainConfig) -> Needs:
        """Crops of as many px as the generator makes one of, and that the coarsest discriminator can judge."""
        crop_px = smallest_px(DISCRIMINATOR_DEPTH) << (config.scales - 1)
        nuclei = (config.nucleus_px, config.marker)
        return Needs(crop_px=crop_px, crop_multiple=1 << config.downsamplings, nuclei=nuclei)

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The discriminators, the estimator of densities, then the generator.

        Raises:
            InputError: the pair has no density of nuclei.
        """
        if pair.density is None:
            raise InputError(
                f"tdkstain needs densities of nuclei, but {pair.names[0]} has none; load pairs with nuclei"
            )
        stain, mask = dab_alone(pair.ihc)
        virtual, virtual_stain = self.generator(torch.cat([pair.he, pair.he * mask])).chunk(2)

        both = torch.cat([torch.cat([pair.he, pair.ihc], dim=1), torch.cat([pair.he, virtual.detach()], dim=1)])
        judged = total(lsgan_discriminator_loss(*scores.chunk(2)) for scores in self.discriminator(both))
        descend(judged, optimizers["discriminator"])

        with torch.no_grad():
            features = self._features(pair.ihc)
        size = (pair.ihc.shape[-2], pair.ihc.shape[-1])
        estimated = self.config.lambda_nuclei * mean_square(self.estimator(features, size), pair.density)
        descend(estimated, optimizers["estimator"])

        with frozen(self.discriminator, self.estimator):
            scores = self.discriminator(torch.cat([pair.he, virtual], dim=1))
            # the generator's way down learns from this twice: as what makes the virtual IHC, and as what reads it
            found = self.estimator(self._features(virtual), size)
            terms = {
                "gan": total(lsgan_generator_loss(score) for score in scores),
                "l1": self.config.lambda_l1 * l1_loss(virtual, pair.ihc),
                "dab": self.config.lambda_dab * l1_loss(virtual_stain, stain),
                "nuclei": self.config.lambda_nuclei * mean_square(found, pair.density),
            }
        descend(total(terms.values()), optimizers["generator"])
        return {
            "discriminator/gan": judged.detach(),
            "estimator/l2": estimated.detach(),
        } | detached(terms, "generator")

    def product(self) -> Generator:
        """The generator."""
        return self.generator

    @torch.no_grad()
    def sample(self, pair: Pair) -> dict[str, Tensor]:
        """H&E, virtual IHC, the neighbouring section's real IHC and its DAB alone."""
        stain, _ = dab_alone(pair.ihc)
        return {"H&E": pair.he, "virtual": self.generator(pair.he), "real neighbour": pair.ihc, "its DAB": stain}

    def _features(self, images: Tensor) -> list[Tensor]:
        """What the generator makes of an image on its way down, after each halving."""
        return list(self.generator.features(images, self.taps).values())


class DensityEstimator(nn.Module):
    """Density of nuclei from features of several sizes, by four residual blocks; 6.81 M weights for a width of 64.

    Args:
        channels: of all features together.
        width: of its own layers; the authors' is twice the generator's.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(channels, width, 7, padding=3),
            normalisation("instance", width),
            nn.ReLU(),
            *(ResidualBlock(width) for _ in range(ESTIMATOR_BLOCKS)),
            convolution(width, 1, 7, padding=3),
            nn.Sigmoid(),
        )

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Read the density off the features of an image.

        Args:
            features: N x C x H x W each, finest first; all are brought to the size of the first.
            size: height and width of the image, px.

        Returns:
            N x 1 x height x width in (0, 1).
        """
        finest = (features[0].shape[-2], features[0].shape[-1])
        density: Tensor = self.layers(torch.cat([_resized(each, finest) for each in features], dim=1))
        return _resized(density, size)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size, mode="bilinear", align_corners=True)


@full_precision
def mean_square(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared difference."""
    return F.mse_loss(found, wanted)


@full_precision
def dab_alone(ihc: Tensor) -> tuple[Tensor, Tensor]:
    """Separate the DAB of an IHC, and mark where there is some.

    A pixel of the DAB image is stained where its saturation (as in HSV) exceeds `SATURATION`. A Gaussian of 9 x 9 px
    softens the edges of that mask; borders are mirrored. Both results keep to the 256 levels of an image, as published.

    Args:
        ihc: N x 3 x H x W in [-1, 1].

    Returns:
        The image that DAB alone would give, N x 3 x H x W in [-1, 1], and the mask, N x 1 x H x W in [0, 1].
    """
    hed = rgb_to_hed(to_unit(ihc))
    rgb = hed_to_rgb(torch.cat([torch.zeros_like(hed[:, :2]), hed[:, 2:]], dim=1))
    lightest, darkest = rgb.amax(1, keepdim=True), rgb.amin(1, keepdim=True)
    soft = _blurred((lightest - darkest > SATURATION * lightest).to(rgb))
    return from_unit((rgb * 255).floor() / 255), (soft * 255).round() / 255


def _blurred(mask: Tensor) -> Tensor:
    """N x 1 x H x W, weighed by a Gaussian of `MASK_BLUR_PX` that reaches `MASK_REACH_PX`, along both axes."""
    distance = torch.arange(-MASK_REACH_PX, MASK_REACH_PX + 1, device=mask.device, dtype=mask.dtype)
    weights = (-(distance**2) / (2 * MASK_BLUR_PX**2)).exp()
    weights = weights / weights.sum()
    padded = F.pad(mask, (MASK_REACH_PX,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
