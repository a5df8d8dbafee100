"""The four frozen auxiliary models: classification and reconstruction, of H&E and of IHC."""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from restain.errors import ConfigError
from restain.networks.auxiliary import Autoencoder, Classifier
from restain.stains import normalise_brightness

LEVELS = {"block1": "block1", "block5": "block8"}
"""Which auxiliary tap guides which block of the generator: generator stage to auxiliary tap."""

AUXILIARY_TAPS = tuple(LEVELS.values())


class Tasks(nn.Module):
    """Multi-task features of H&E and IHC; never trained, always in evaluation mode."""

    def __init__(
        self,
        *,
        he_autoencoder: Autoencoder,
        he_classifier: Classifier,
        ihc_autoencoder: Autoencoder,
        ihc_classifier: Classifier,
        width: int,
        normalise: bool,
    ) -> None:
        super().__init__()
        self.he_classifier, self.he_autoencoder = he_classifier, he_autoencoder
        self.ihc_classifier, self.ihc_autoencoder = ihc_classifier, ihc_autoencoder
        for name, network in self.named_children():
            found = network.config.width if isinstance(network, Autoencoder | Classifier) else None
            if found != width:
                raise ConfigError(f"auxiliary model {name} has width {found}, the method {width}; they must agree")
        self.normalise = normalise
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Tasks":
        """Stay in evaluation mode: dropout in a frozen model would blur its features."""
        return super().train(False)

    @torch.no_grad()
    def he(self, images: Tensor) -> dict[str, Tensor]:
        """Classification and reconstruction features of H&E, N x 8*width x H/4 x W/4 per tap."""
        images = self.seen(images)
        return _concatenate(self.he_classifier, self.he_autoencoder, images)

    @torch.no_grad()
    def ihc(self, images: Tensor) -> dict[str, Tensor]:
        """Classification and reconstruction features of IHC, N x 8*width x H/4 x W/4 per tap."""
        images = self.seen(images)
        return _concatenate(self.ihc_classifier, self.ihc_autoencoder, images)

    @torch.no_grad()
    def ihc_structure(self, images: Tensor, taps: Collection[str] = AUXILIARY_TAPS) -> dict[str, Tensor]:
        """Reconstruction features of IHC alone (M_ir), N x 4*width x H/4 x W/4 per tap."""
        return self.ihc_autoencoder.features(self.seen(images), taps)

    @torch.no_grad()
    def views(self, images: Tensor, taps: Collection[str]) -> dict[str, Tensor]:
        """Likewise of views of an image that it has seen: as they are, their brightness is not normalised again."""
        return self.ihc_autoencoder.features(images, taps)

    def seen(self, images: Tensor) -> Tensor:
        """The images as the auxiliary models see them."""
        return normalise_brightness(images) if self.normalise else images


def _concatenate(classifier: Classifier, autoencoder: Autoencoder, images: Tensor) -> dict[str, Tensor]:
    semantics = classifier.features(images, AUXILIARY_TAPS)
    structure = autoencoder.features(images, AUXILIARY_TAPS)
    return {tap: torch.cat([semantics[tap], structure[tap]], dim=1) for tap in AUXILIARY_TAPS}
