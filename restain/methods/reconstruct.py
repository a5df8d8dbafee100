"""Train an auxiliary autoencoder: an image to itself, so that its features carry fine structure (VSMT, stage one)."""

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from restain.data.pairs import Pair
from restain.methods.base import Method, MethodConfig, Needs, Progress, adam, descend
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig
from restain.stains import normalise_brightness


class ReconstructConfig(MethodConfig):
    """Settings of `reconstruct`; the defaults are VSMT's."""

    side: Literal["he", "ihc"] = "he"
    """Which image of a pair to learn from."""
    width: int = Field(64, ge=1, le=4096)
    """Channels of the first convolution."""
    lr: float = Field(2e-4, gt=0)
    normalise_brightness: bool = False
    """Scale each image to a mean of one half first; the published models learned from images as they are."""


class Reconstruct(Method):
    """L2 distance to the input."""

    name = "reconstruct"
    Config: ClassVar[type[MethodConfig]] = ReconstructConfig
    agreed = ("side", "width", "normalise_brightness")

    def __init__(self, config: ReconstructConfig) -> None:
        super().__init__()
        self.config = config
        self.autoencoder = Autoencoder(AuxiliaryConfig(width=config.width))

    @classmethod
    def needs(cls, config: ReconstructConfig) -> Needs:
        """Crops of which two pixels are left at a quarter of the size, the least that can be reflected."""
        return Needs(crop_px=8)

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam for the autoencoder."""
        return {"autoencoder": adam(self.autoencoder, lr=self.config.lr)}

    def step(self, pair: Pair, optimizers: Mapping[str, Optimizer], progress: Progress) -> dict[str, Tensor]:
        """One step of L2 reconstruction."""
        images = self._images(pair)
        loss = F.mse_loss(self.autoencoder(images).float(), images)
        descend(loss, optimizers["autoencoder"])
        return {"autoencoder/l2": loss.detach()}

    def product(self) -> Autoencoder:
        """The autoencoder."""
        return self.autoencoder

    @torch.no_grad()
    def sample(self, pair: Pair) -> dict[str, Tensor]:
        """Images and their reconstructions."""
        images = self._images(pair)
        return {self.config.side: images, "reconstruction": self.autoencoder(images)}

    def _images(self, pair: Pair) -> Tensor:
        images = pair.he if self.config.side == "he" else pair.ihc
        return normalise_brightness(images) if self.config.normalise_brightness else images
