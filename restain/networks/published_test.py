"""Stains as in the tests of the authors of pix2pix and PyramidP2P: with the network in training mode.

Batch norm then uses the statistics of the image instead of the running ones, and dropout stays on as a source of noise
(Isola et al. 2017, section 3.3). Here dropout is drawn from a seed, the same for every image, so that the result
depends on the image alone.
"""

import copy

import torch
from torch import Tensor, nn

from restain.errors import InputError
from restain.networks.blocks import Dropout
from restain.networks.normalisation import BatchNorm, instance_norm
from restain.networks.stainer import Stainer
from restain.randomness import generator


class ImageNorm(nn.Module):
    """Batch norm with the statistics of each image.

    Args:
        trained: the layer whose weights to copy.
    """

    def __init__(self, trained: BatchNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = trained.eps, trained.weight, trained.bias

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        return instance_norm(x, self.eps) * self.weight.view(-1, 1, 1).to(x) + self.bias.view(-1, 1, 1).to(x)


class DrawnDropout(nn.Module):
    """Dropout that is always on and drops the same units for every image.

    Args:
        rate: share of features that become 0; the rest grows so that the mean stays.
        seed: what is dropped follows from it.
        place: name of the layer; layers of one seed drop differently.
    """

    def __init__(self, rate: float, seed: int, place: str) -> None:
        super().__init__()
        self.rate, self.seed, self.place = rate, seed, place

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        draws = torch.rand(x.shape[1:], generator=generator(self.seed, "dropout", self.place))
        return x * (draws >= self.rate).to(x).div(1 - self.rate)


def published_test(network: Stainer, seed: int = 0) -> Stainer:
    """Copy a network so that it stains as in the published test; in evaluation mode, without gradients.

    Its statistics are global, so each image, or each tile, is stained as a whole.

    Args:
        network: with batch norm; not changed.
        seed: of the dropout.

    Raises:
        InputError: it has no batch norm, so that nothing would change.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    if not any(isinstance(layer, BatchNorm) for layer in copied.modules()):
        raise InputError("the network has no batch norm, so the published test has no effect; leave it out")
    for name, layer in list(copied.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(layer, BatchNorm):
            setattr(copied.get_submodule(parent), child, ImageNorm(layer))
        elif isinstance(layer, Dropout):
            setattr(copied.get_submodule(parent), child, DrawnDropout(layer.p, seed, name))
    return copied


def sees_whole_images(network: nn.Module) -> bool:
    """Whether a network comes from `published_test`, so that each pixel depends on the whole image."""
    return any(isinstance(layer, ImageNorm) for layer in network.modules())


def check_local(network: nn.Module) -> None:
    """Check that a network can have fixed statistics.

    Raises:
        InputError: it is to stain as in the published test.
    """
    if sees_whole_images(network):
        raise InputError(
            "the published test uses statistics of the image itself, so tiles cannot share any; stain images as a "
            "whole or with norm 'tile', or leave the published test out"
        )
