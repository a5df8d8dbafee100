"""Protein expression as PSPStain compares it: focal optical density of DAB at three levels (Chen et al. 2024)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from restain.stains import hed_to_rgb, rgb_to_hed
from restain.tensors import full_precision, same_shape

FOCUS = 1.8
"""Exponent that separates strong stain from weak."""
TOP_DENSITY = math.e
"""Focal density of black; that of white is 0."""
TOLERANCE = 0.4
"""Tolerated difference of means between adjacent sections, as a share of the real one."""
CLASSES = 20
"""Classes of focal density, of equal width from 0 to `TOP_DENSITY`."""
BLOCKS = 4
"""Blocks along each side."""

GREY = torch.tensor([0.2125, 0.7154, 0.0721], dtype=torch.float64)
"""Weights of red, green and blue in the grey value (ITU-R 709)."""
BLACK = 10 ** -(TOP_DENSITY ** (1 / FOCUS))
"""Added to the grey value, so that black has a focal density of e."""


@full_precision
def focal_density(light: Tensor) -> Tensor:
    """Measure DAB by the grey density of its own image, to the power of 1.8 (FOD).

    The colours are separated, the DAB is rendered alone, and the density is that of the rendering's grey value.

    Args:
        light: N x 3 x H x W; what is below 1e-6 counts as 1e-6. An image in [0, 1] gives its optical density. In an
            image in [-1, 1], which the published code measures, all that is darker than mid-grey counts as black.

    Returns:
        N x 1 x H x W in [0, e].
    """
    dab = rgb_to_hed(light)[:, 2:]
    alone = hed_to_rgb(torch.cat([torch.zeros_like(dab).expand(-1, 2, -1, -1), dab], dim=1))
    grey: Tensor = torch.einsum("nchw,c->nhw", alone, GREY.to(alone, non_blocking=True)).unsqueeze(1)
    focal: Tensor = (-(grey + BLACK).log10()).clamp_min(0) ** FOCUS
    return focal


@full_precision
def protein_losses(virtual: Tensor, real: Tensor, least: float = 0.15) -> dict[str, Tensor]:
    """Compare focal densities at three levels (MLPA): the mean, how strong stain is spread over classes, and blocks.

    Adjacent sections agree in the amount of protein, not pixel by pixel. Mean and blocks count
    densities below `least` as 0; no gradient goes around that threshold.

    Args:
        virtual: focal density, N x 1 x H x W.
        real: of the neighbour, same shape; H and W at least 4.
        least: focal density; the published 0.15 is a grey density of 0.35.

    Returns:
        One value for each image, N each. `mean`: the squared difference of the means, 0 where they differ by less than
        40 % of the real one. `histogram`: squared differences summed over classes. `blocks`: the mean squared
        difference of the means of 4 x 4 blocks.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, real=real)
    strong = [torch.where(density < least, 0, density) for density in (virtual, real)]
    means = [density.mean((1, 2, 3)) for density in strong]
    apart = (means[0] - means[1]).abs() > TOLERANCE * means[1]
    blocks = [F.adaptive_avg_pool2d(density, BLOCKS) for density in strong]
    return {
        "mean": (means[0] - means[1]).square() * apart,
        "histogram": (density_histogram(virtual) - density_histogram(real)).square().sum(1),
        "blocks": (blocks[0] - blocks[1]).square().mean((1, 2, 3)),
    }


@full_precision
def density_histogram(density: Tensor) -> Tensor:
    """How much of the mean density lies in each of 20 classes of it, N x 20; a row's sum is the image's mean.

    Sums of densities, not numbers of pixels: each pixel's density has a gradient, though its class has none.

    Args:
        density: N x 1 x H x W, at least 0; what exceeds e counts in the last class.
    """
    values = density.flatten(1)
    place = (values.detach() * (CLASSES / TOP_DENSITY)).clamp(0, CLASSES - 1).long()
    return values.new_zeros(len(values), CLASSES).scatter_add(1, place, values) / values.shape[1]
