"""Stain as the authors of pix2pix and PyramidP2P do in their tests: with the network left in training mode.

Batch norm then takes the statistics of the image at hand instead of the running ones, and dropout stays on as a source
of chance (Isola et al. 2017, section 3.3). Here dropout is drawn from a seed, the same for every image, so that the
result still is a function of the image alone.
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
    """A batch norm that has seen nothing but the image at hand; each image of a batch by itself.

    Args:
        trained: whose weights it takes over.
    """

    def __init__(self, trained: BatchNorm) -> None:
        super().__init__()
        self.eps, self.weight, self.bias = trained.eps, trained.weight, trained.bias

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        return instance_norm(x, self.eps) * self.weight.view(-1, 1, 1).to(x) + self.bias.view(-1, 1, 1).to(x)


class DrawnDropout(nn.Module):
    """Dropout that is always on and drops the same of every image.

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

    It looks at the whole of an image, so an image has to go through in one piece, or each tile of it counts as one.

    Args:
        network: with batch norm; not changed.
        seed: of the dropout.

    Raises:
        InputError: it has no batch norm, so that nothing would change.
    """
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    if not any(isinstance(layer, BatchNorm) for layer in copied.modules()):
        raise InputError(
            "the network has no batch norm, so its published test changes nothing; leave the published test out"
        )
    for name, layer in list(copied.named_modules()):
        parent, _, child = name.rpartition(".")
        if isinstance(layer, BatchNorm):
            setattr(copied.get_submodule(parent), child, ImageNorm(layer))
        elif isinstance(layer, Dropout):
            setattr(copied.get_submodule(parent), child, DrawnDropout(layer.p, seed, name))
    return copied


def sees_whole_images(network: nn.Module) -> bool:
    """Whether `published_test` made it: what it gives at a pixel depends on the whole image."""
    return any(isinstance(layer, ImageNorm) for layer in network.modules())


def check_local(network: nn.Module) -> None:
    """Check that a network can have fixed statistics.

    Raises:
        InputError: it is to stain as in the published test.
    """
    if sees_whole_images(network):
        raise InputError(
            "the published test takes statistics from the image at hand, so tiles cannot share any; stain images in "
            "one piece or by norm 'tile', or leave the published test out"
        )
