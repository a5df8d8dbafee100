"""Structure enhancement learning (VSMT, spatial alignment): a modulator that keeps structure and plays down stain.

Anchor, positive and negative are reconstruction features of the virtual IHC, of a view that keeps its structure, and of
one that keeps its stain. The margin keeps some stain, which matters more later in training.
"""

import torch
from torch import Tensor, nn

from restain.data.pairs import Pair
from restain.methods.base import Progress
from restain.methods.vsmt.views import ViewSettings, stain_preserving, structure_preserving
from restain.networks.blocks import initialise
from restain.networks.normalisation import InstanceNorm


class Modulator(nn.Module):
    """M_sf: features N x C x h x w to one C/2-vector per region, N x C/2 x h/size x w/size."""

    def __init__(self, channels: int, region_size: int) -> None:
        """Halve the grid until one cell covers `region_size` (a power of two) feature pixels."""
        super().__init__()
        half = channels // 2
        layers: list[nn.Module] = [nn.Conv2d(channels, half, 1, bias=False), InstanceNorm(half), nn.ELU()]
        for _ in range(region_size.bit_length() - 1):
            layers += [nn.Conv2d(half, half, 2, stride=2), InstanceNorm(half), nn.ELU()]
        self.layers = nn.Sequential(*layers)
        # the projection h(.) serves the contrastive loss only
        self.head = nn.Sequential(nn.Conv2d(half, half, 1), nn.ELU(), nn.Conv2d(half, half, 1))
        initialise(self)

    def forward(self, features: Tensor) -> Tensor:
        """Structure of each region."""
        regions: Tensor = self.layers(features)
        return regions


def draw_views(
    virtual: Tensor, pair: Pair, progress: Progress, settings: ViewSettings, he_probability: float
) -> tuple[Tensor, Tensor]:
    """A positive and a negative view of each virtual image, N x 3 x H x W each.

    Args:
        virtual: virtual IHC as the auxiliary models see it, its brightness normalised where they want that; the views
            then need no more of it.
        pair: with the H&E, and with the places in the data set that draws derive from.
        progress: where training stands.
        settings: of the views.
        he_probability: how often the positive is the H&E itself, as it is: the same structure in another stain.
    """
    images = virtual.float()  # views are drawn in float32, whatever the networks compute in
    positive = structure_preserving(images, progress.image_generators(pair, "positive"), settings).to(virtual.dtype)
    negative = stain_preserving(images, progress.image_generators(pair, "negative"), settings).to(virtual.dtype)
    if he_probability:
        draws = torch.stack([torch.rand((), generator=g) for g in progress.image_generators(pair, "he")])
        use_he = (draws < he_probability).to(virtual.device, non_blocking=True).view(-1, 1, 1, 1)
        positive = torch.where(use_he, pair.he.to(virtual.dtype), positive)
    return positive, negative
