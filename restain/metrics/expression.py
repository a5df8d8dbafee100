"""Amount and place of DAB: statistics of tiles, and the figures computed from them.

Pathologists assess how much stain there is and where, which SSIM, PSNR and FID hardly reflect (Kataria et al. 2025,
arXiv 2511.04615).
"""

import torch
from torch import Tensor

from restain.stains import POSITIVE_DENSITY, dab_density, positive_mask

HISTOGRAM_BINS = 50
HISTOGRAM_TOP = 1.0
"""Optical densities above this share the last bin."""


def dab_densities(virtual: Tensor, real: Tensor) -> Tensor:
    """Integrated DAB optical density per pixel of each tile: the amount of stain, independent of tile size.

    Args:
        virtual: images, N x 3 x H x W in [0, 1].
        real: their partners, same shape.

    Returns:
        N x 2: virtual, real.
    """
    return torch.stack([dab_density(images).mean((1, 2, 3)) for images in (virtual, real)], dim=1)


def positive_densities(virtual: Tensor, real: Tensor) -> Tensor:
    """Mean DAB optical density of the positive area of each tile.

    Args:
        virtual: images, N x 3 x H x W in [0, 1].
        real: their partners, same shape.

    Returns:
        N x 2: virtual, real; NaN where nothing is positive.
    """
    densities = [dab_density(images).flatten(1) for images in (virtual, real)]
    positive = [density > POSITIVE_DENSITY for density in densities]
    sums = [(density * mask).sum(1) / mask.sum(1) for density, mask in zip(densities, positive, strict=True)]
    return torch.stack(sums, dim=1)


def positive_areas(virtual: Tensor, real: Tensor) -> Tensor:
    """DAB-positive areas of each tile, in px.

    Args:
        virtual: images, N x 3 x H x W in [0, 1].
        real: their partners, same shape.

    Returns:
        N x 3: positive in both, in virtual, in real.
    """
    positive_virtual, positive_real = positive_mask(virtual), positive_mask(real)
    areas = [mask.flatten(1).sum(1) for mask in (positive_virtual & positive_real, positive_virtual, positive_real)]
    return torch.stack(areas, dim=1).to(virtual.dtype)


def dab_divergence(virtual: Tensor, real: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the real DAB densities from the virtual ones, in nats, for each tile.

    Histograms of `HISTOGRAM_BINS` bins from 0 to an optical density of `HISTOGRAM_TOP`, where the last one includes
    denser pixels. One pixel is added to every bin (Laplace), so that empty bins keep the divergence finite.

    Args:
        virtual: images, N x 3 x H x W in [0, 1].
        real: their partners, same shape.

    Returns:
        N, at least 0; 0 for equal histograms.
    """
    p, q = _histograms(real), _histograms(virtual)
    return (p * (p / q).log()).sum(1)


def _histograms(images: Tensor) -> Tensor:
    """Shares of the bins, N x `HISTOGRAM_BINS`."""
    bins = (dab_density(images).flatten(1) * (HISTOGRAM_BINS / HISTOGRAM_TOP)).long().clamp_max(HISTOGRAM_BINS - 1)
    counts = torch.ones(len(images), HISTOGRAM_BINS, dtype=torch.float64, device=images.device)
    counts.scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float64))
    return counts / counts.sum(1, keepdim=True)


def mean_absolute_difference(virtual: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference over tiles; N and N to a scalar."""
    return (virtual - real).abs().mean()


def pearson(virtual: Tensor, real: Tensor) -> Tensor:
    """Pearson correlation over tiles; N and N to a scalar, NaN if either side is constant."""
    virtual, real = (values - values[:1] for values in (virtual, real))  # a constant becomes exactly 0
    virtual, real = virtual - virtual.mean(), real - real.mean()
    return (virtual * real).sum() / (virtual.square().sum() * real.square().sum()).sqrt()


def dice(both: Tensor, virtual: Tensor, real: Tensor) -> Tensor:
    """Dice of the areas of all tiles together, so that tiles with little stain have little weight.

    Args:
        both: area positive in both images of each tile, N.
        virtual: area positive in the virtual image, N.
        real: area positive in the real image, N.

    Returns:
        A scalar in [0, 1]; NaN if nothing is positive.
    """
    return 2 * both.sum() / (virtual.sum() + real.sum())


def iou(both: Tensor, virtual: Tensor, real: Tensor) -> Tensor:
    """Intersection over union of all tiles' areas together; arguments and result as in `dice`."""
    return both.sum() / (virtual.sum() + real.sum() - both.sum())
