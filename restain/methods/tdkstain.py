"""TDKStain: paired translation that knows what a HER2 reader looks at (MICCAI 2024): nuclei and stained membranes.

Source: "Advancing H&E-to-IHC Virtual Staining with Task-Specific Domain Knowledge for HER2 Scoring". Two branches join
a paired adversarial network: one stains only the tissue that is positive in the neighbouring section, one holds the
nuclei of the virtual IHC to the density of the real ones.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
from restain.losses.distance import l1_loss
from restain.methods.base import Method, MethodConfig, Needs, Progress, descend, detached, frozen, total
from restain.networks.blocks import convolution, initialise
from restain.networks.discriminator import Discriminator, MultiscaleDiscriminator, smallest_px
from restain.networks.generator import Generator, GeneratorConfig
from restain.stains import HED_UNIT, from_unit, hed_to_rgb, rgb_to_hed, to_unit
from restain.tensors import full_precision

DISCRIMINATOR_DEPTH = 3
"""Halvings of each discriminator, which sees 70 px at a time."""

SATURATION = 0.15
"""Colour saturation above which the separated DAB counts as stain: an optical density of about 0.14."""

MASK_BLUR_PX = 5
"""Side of the square over which the separated DAB is averaged before its saturation is looked at."""

NUCLEAR_CONTRAST = 0.04
"""Haematoxylin, optical density, by which a nucleus exceeds its surroundings; as in `restain.quantify.nuclei`."""


class TdkStainConfig(MethodConfig):
    """Settings of `tdkstain`; the defaults are the authors', but for `nucleus_px`, which is ours."""

    width: int = Field(64, ge=1)
    """Channels of the generator's and the discriminators' first convolution."""
    blocks: int = Field(9, ge=1)
    """Residual blocks of the generator."""
    downsamplings: int = Field(3, ge=1)
    """Halvings of the generator; the crop must be a multiple of 2^downsamplings px."""
    scales: int = Field(3, ge=1)
    """Discriminators, each at half the size of the one before; the coarsest needs 32 px."""
    lambda_l1: float = Field(10.0, ge=0)
    """Weight of the L1 distance to the neighbouring section."""
    lambda_dab: float = Field(10.0, ge=0)
    """Weight of the L1 distance between what the positive tissue alone becomes and the neighbour's DAB alone."""
    lambda_nuclei: float = Field(10.0, ge=0)
    """Weight of the squared difference of the densities of nuclei."""
    nucleus_px: int = Field(13, ge=3)
    """Diameter of a typical nucleus; 13 px are 6 µm at 0.46 µm per pixel."""
    lr: float = Field(2e-4, gt=0)


class TdkStain(Method):
    """LSGAN + lambda_l1 L1 + lambda_dab L1 of the DAB branch + lambda_nuclei MSE of the nuclei branch.

    The paper's density maps come from a nucleus detector; here a map is the share of nuclear stain in each cell of the
    feature grid, which needs no detector and follows the crop (see `nuclear_density`). Outside a mask we put white
    glass, where multiplying an image in [-1, 1] by zero would put mid-grey.
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
        self.estimator = DensityEstimator(config.width * 2**config.downsamplings)
        initialise(self, scheme="normal")

    @classmethod
    def needs(cls, config: TdkStainConfig) -> Needs:
        """Crops of as many px as the generator makes one of, and that the coarsest discriminator can judge."""
        crop_px = smallest_px(DISCRIMINATOR_DEPTH) << (config.scales - 1)
        return Needs(crop_px=crop_px, crop_multiple=1 << config.downsamplings)

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """The discriminators, the estimator of densities, then the generator."""
        stain, mask = dab_alone(pair.ihc)
        density = nuclear_density(pair.ihc, self.config.nucleus_px, self.generator.multiple)
        positive = torch.where(mask, pair.he, 1.0)
        virtual, virtual_stain = self.generator(torch.cat([pair.he, positive])).chunk(2)

        both = torch.cat([torch.cat([pair.he, pair.ihc], dim=1), torch.cat([pair.he, virtual.detach()], dim=1)])
        judged = total(lsgan_discriminator_loss(*scores.chunk(2)) for scores in self.discriminator(both))
        descend(judged, optimizers["discriminator"])

        with torch.no_grad():
            features = self._features(pair.ihc)
        estimated = mean_square(self.estimator(features), density)
        descend(estimated, optimizers["estimator"])

        with frozen(self.discriminator, self.estimator):
            scores = self.discriminator(torch.cat([pair.he, virtual], dim=1))
            # the encoder judges the virtual IHC here and must not learn to see in it what is not there
            with frozen(self.generator):
                found = self.estimator(self._features(virtual))
            terms = {
                "gan": total(lsgan_generator_loss(score) for score in scores),
                "l1": self.config.lambda_l1 * l1_loss(virtual, pair.ihc),
                "dab": self.config.lambda_dab * l1_loss(virtual_stain, stain),
                "nuclei": self.config.lambda_nuclei * mean_square(found, density),
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

    def _features(self, images: Tensor) -> Tensor:
        """Where the generator's way down ends."""
        tap = f"shrink{self.config.downsamplings}"
        return self.generator.features(images, [tap])[tap]


class DensityEstimator(nn.Module):
    """Density of nuclei from features, N x C x h x w to N x 1 x h x w; without norms, which would hide the level."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide, narrow = max(1, channels // 4), max(1, channels // 8)
        self.layers = nn.Sequential(
            convolution(channels, wide, 3, padding=1),
            nn.ReLU(),
            convolution(wide, narrow, 3, padding=1),
            nn.ReLU(),
            convolution(narrow, 1, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """One number per place of the feature grid."""
        density: Tensor = self.layers(features)
        return density


@full_precision
def mean_square(found: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared difference."""
    return F.mse_loss(found, wanted)


@full_precision
def dab_alone(ihc: Tensor) -> tuple[Tensor, Tensor]:
    """Separate the DAB of an IHC, and mark where there is some.

    Args:
        ihc: N x 3 x H x W in [-1, 1].

    Returns:
        The image that DAB alone would give, N x 3 x H x W in [-1, 1], and where its saturation (as in HSV), after a
        mean over 5 x 5 px, exceeds `SATURATION`, N x 1 x H x W bool.
    """
    hed = rgb_to_hed(to_unit(ihc))
    rgb = hed_to_rgb(torch.cat([torch.zeros_like(hed[:, :2]), hed[:, 2:]], dim=1))
    light = box_mean(rgb, MASK_BLUR_PX)
    lightest, darkest = light.amax(1, keepdim=True), light.amin(1, keepdim=True)
    return from_unit(rgb), lightest - darkest > SATURATION * lightest


@full_precision
def nuclear_density(ihc: Tensor, nucleus_px: int, cell_px: int) -> Tensor:
    """Measure how much of each cell is nucleus.

    A pixel is nuclear where its haematoxylin, without noise (mean over a quarter of a nucleus), exceeds the mean around
    it (four nuclei wide) by `NUCLEAR_CONTRAST`.

    Args:
        ihc: N x 3 x H x W in [-1, 1].
        nucleus_px: diameter of a typical nucleus.
        cell_px: side of a cell; divides H and W.

    Returns:
        Shares in [0, 1], N x 1 x H/cell_px x W/cell_px.
    """
    haematoxylin = rgb_to_hed(to_unit(ihc))[:, :1] * HED_UNIT
    clear, around = box_mean(haematoxylin, nucleus_px // 4), box_mean(haematoxylin, 4 * nucleus_px)
    nuclear = (clear > around + NUCLEAR_CONTRAST).to(ihc)
    return F.avg_pool2d(nuclear, cell_px)


def box_mean(images: Tensor, side_px: int) -> Tensor:
    """Mean over the square around each pixel, its side made odd by one more px; what lies outside does not count."""
    reach = side_px // 2
    for height, width in ((reach, 0), (0, reach)):
        window = (2 * height + 1, 2 * width + 1)
        images = F.avg_pool2d(images, window, stride=1, padding=(height, width), count_include_pad=False)
    return images
