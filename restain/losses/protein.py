"""Protein expression as PSPStain compares it: focal optical density of DAB at three levels (Chen et al. 2024).

Departs from the paper in scale. True densities of real tissue are small: over whole tiles of HER2 the mean of the focal
density is at most some thousandths, and the squares of its differences would weigh nothing beside any other term. So
each level's squared difference is taken relative to the two sides' squares, which makes it a number from 0 to 1.
"""

import torch
from torch import Tensor

from restain.stains import hed_to_rgb, rgb_to_hed
from restain.tensors import full_precision, same_shape

FOCUS = 1.8
"""Power that sets strong stain off from weak."""
LEAST_DENSITY = 0.15
"""Optical density below which nothing counts as stain."""
TOLERANCE = 0.4
"""Adjacent sections may differ in their mean by this share of the real one."""
BINS = 20
"""Classes of focal density in the histogram."""
TOP_DENSITY = 0.25
"""Where the histogram's last class begins to take all; one unit of DAB has a focal density of 0.26."""
BLOCKS = 4
"""Blocks along each side."""

GREY = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
"""Shares of red, green and blue in the grey value (ITU-R 601)."""
GREY_LEVEL = 1 / 255
DARKEST = 1e-6
FLOOR = 1e-8
"""Added to the sum of squares that differences are relative to: a mean focal density of 0.0001 is next to nothing."""


@full_precision
def focal_density(rgb: Tensor) -> Tensor:
    """Measure DAB by the grey density of its own image, to the power of 1.8; 0 where the density is below 0.15 (FOD).

    The colours are separated, the DAB is rendered alone, and the density is that of the rendering's grey value. Light
    below one grey level counts as one, so that the slope of the logarithm stays bounded.

    Args:
        rgb: N x 3 x H x W in [0, 1], unlike the networks' images.

    Returns:
        N x 1 x H x W, at least 0. Its gradient is that of the power below 0.15, too: a virtual IHC with too little
        stain to count could otherwise not learn to have more. Where the separation finds no DAB at all, as on pure
        white, the gradient is 0 all the same.
    """
    dab = rgb_to_hed(rgb.clamp_min(GREY_LEVEL))[:, 2:]
    alone = hed_to_rgb(torch.cat([torch.zeros_like(dab).expand(-1, 2, -1, -1), dab], dim=1))
    grey = torch.einsum("nchw,c->nhw", alone, GREY.to(alone, non_blocking=True)).unsqueeze(1)
    density = -grey.clamp(DARKEST, 1).log10()
    focal = density.clamp_min(0) ** FOCUS
    return focal - torch.where(density < LEAST_DENSITY, focal, 0).detach()


def protein_losses(virtual: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Compare focal densities at three levels (MLPA): the mean, how strong stain is spread over classes, and blocks.

    Adjacent sections agree in how much protein there is, not in where each pixel of it lies.

    Args:
        virtual: focal density, N x 1 x H x W.
        real: of the neighbour, same shape; H and W at least 4.

    Returns:
        `mean`, 0 where the two differ by less than 40 % of the real one; `histogram`, of the stained pixels; `blocks`,
        the means of 4 x 4 blocks. Each is from 0 to 1, a mean over images.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, real=real)
    means = [density.mean((1, 2, 3)).unsqueeze(1) for density in (virtual, real)]
    apart = (means[0] - means[1]).abs() > TOLERANCE * means[1]
    blocks = [torch.nn.functional.adaptive_avg_pool2d(density, BLOCKS).flatten(1) for density in (virtual, real)]
    return {
        "mean": (relative_difference(*means) * apart.squeeze(1)).mean(),
        "histogram": relative_difference(density_histogram(virtual), density_histogram(real)).mean(),
        "blocks": relative_difference(*blocks).mean(),
    }


@full_precision
def density_histogram(density: Tensor) -> Tensor:
    """The share of pixels in each of 20 classes of focal density, N x 20; what has none is left out.

    A pixel is shared between the two classes whose centres are nearest, in proportion, because a pixel that belongs to
    one class alone would tell nothing about which way to change.

    Args:
        density: N x 1 x H x W, at least 0.
    """
    values = density.flatten(1)
    place = (values * (BINS / TOP_DENSITY) - 0.5).clamp(0, BINS - 1)  # in units of a class, from the first one's centre
    lower = place.detach().floor().clamp_max(BINS - 2)
    upper_share = place - lower
    stained = (values > 0).to(values)
    histogram = values.new_zeros(len(values), BINS)
    histogram = histogram.scatter_add(1, lower.long(), stained * (1 - upper_share))
    histogram = histogram.scatter_add(1, lower.long() + 1, stained * upper_share)
    return histogram / values.shape[1]


@full_precision
def relative_difference(virtual: Tensor, real: Tensor) -> Tensor:
    """The squared distance of two rows of numbers over the sum of their squares, N x C each to N; 0 for equal rows.

    For numbers that are not negative it is at most 1, and is 1 where no place holds both.
    """
    squares = virtual.square().sum(1) + real.square().sum(1)
    return (virtual - real).square().sum(1) / (squares + FLOOR)
