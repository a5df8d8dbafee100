"""Distances between the distributions of virtual and real tiles: FID and KID of two feature matrices.

Everything is computed in float64. Features are N x D, one row per tile; the two sets may differ in size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from restain.errors import ShapeError

KERNEL_BLOCK = 256
"""Rows of a kernel matrix held at a time, so that memory does not grow with the square of the tiles."""


@dataclass(frozen=True)
class Frechet:
    """A Fréchet distance and the influence of each tile on it."""

    distance: Tensor
    virtual_influence: Tensor
    """Derivative of the distance by the weight of each virtual tile, N; their mean is 0."""
    real_influence: Tensor
    """The same of the real tiles."""


def frechet_distance(virtual: Tensor, real: Tensor) -> Tensor:
    """Fréchet distance of two normal distributions with the sets' means and covariances (Heusel et al. 2017, FID).

    The published formula takes the square root of a product of covariances, which fails if they are singular, that is,
    with fewer tiles than features. Here each covariance is RᵀR, with R the triangular factor of the centred features;
    the trace of that square root is the sum of the singular values of R_v R_rᵀ, with any rank.

    Args:
        virtual: features, N x D.
        real: features, M x D.

    Returns:
        A scalar, float64; non-negative up to rounding. It shrinks with N, so compare only at equal N.

    Raises:
        ShapeError: the widths differ, or a set has fewer than two tiles.
    """
    return frechet(virtual, real).distance


def frechet(virtual: Tensor, real: Tensor) -> Frechet:
    """The Fréchet distance with each tile's influence, its first derivative (Hampel 1974); arguments as above.

    With T the linear map that carries one normal distribution to the other, the influence of a tile x among the virtual
    ones is 2 (μ_v - μ_r)ᵀ(x - μ_v) + (x - μ_v)ᵀ(1 - T)(x - μ_v), less its mean.
    """
    _check(virtual, real)
    mean_v, basis_v, factor_v = _factors(virtual)
    mean_r, basis_r, factor_r = _factors(real)
    left, singular, right = torch.linalg.svd(factor_v @ factor_r.mT, full_matrices=False)
    shift = mean_v - mean_r
    distance = shift.square().sum() + factor_v.square().sum() + factor_r.square().sum() - 2 * singular.sum()
    influence_v = _influence(virtual, mean_v, shift, basis_v @ left, singular)
    influence_r = _influence(real, mean_r, -shift, basis_r @ right.mT, singular)
    return Frechet(distance, influence_v, influence_r)


def frechet_draws(virtual: Tensor, real: Tensor, counts: Tensor) -> Tensor:
    """Fréchet distances of bootstrap samples of pairs, to first order.

    Computed in full they would be too large throughout: a sample has fewer distinct tiles, and the distance grows as
    tiles become fewer. To first order they lie around the distance of all tiles (infinitesimal jackknife).

    Args:
        virtual: features, N x D.
        real: features of the partners, N x D.
        counts: how often each sample has each pair, draws x N.

    Returns:
        The distances, one per draw.
    """
    whole = frechet(virtual, real)
    influence = whole.virtual_influence + whole.real_influence
    return whole.distance + counts.double() @ influence / counts.sum(1)


def kernel_distance(
    virtual: Tensor, real: Tensor, subsets: int, subset_size: int, generator: torch.Generator
) -> Tensor:
    """Squared maximum mean discrepancy with the kernel (xᵀy / D + 1)³, unbiased (Bińkowski et al. 2018, KID).

    The mean over random subsets of both sets, drawn without replacement.

    Args:
        virtual: features, N x D.
        real: features, M x D.
        subsets: number of subsets.
        subset_size: tiles in each, of each set; at least 2. The size of the set itself means all tiles, once.
        generator: draws the subsets.

    Returns:
        A scalar, float64. Values below zero mean that the sets cannot be distinguished.

    Raises:
        ShapeError: the widths differ, or a set has fewer tiles than a subset or than two.
    """
    _check(virtual, real)
    virtual, real = virtual.double(), real.double()
    tiles = min(len(virtual), len(real))
    if not 2 <= subset_size <= tiles:
        raise ShapeError(
            f"subsets of {subset_size} tiles cannot be drawn from {tiles}; choose a size from 2 to {tiles}"
        )
    if subset_size == len(virtual) == len(real):
        return _discrepancy(virtual, real)
    values = [
        _discrepancy(*(rows[torch.randperm(len(rows), generator=generator)[:subset_size]] for rows in (virtual, real)))
        for _ in range(subsets)
    ]
    return torch.stack(values).mean()


def kernel_draws(distance: Tensor, virtual: Tensor, real: Tensor, counts: Tensor) -> Tensor:
    """Kernel distances of bootstrap samples of pairs, to first order, as in `frechet_draws`.

    Computed in full they would be too large: a sample has some tiles, and tiles of one case, more than once, and these
    resemble each other more than new ones would. The influence of a pair of a virtual tile v and a real tile r is
    2 (mean k(v, v') + mean k(r, r') - mean k(v, r') - mean k(v', r)), less its mean.

    Args:
        distance: of all tiles, as `kernel_distance` gives it; the draws lie around it.
        virtual: features, N x D.
        real: features of the partners, N x D.
        counts: how often each sample has each pair, draws x N.

    Returns:
        The distances, one per draw, float64.
    """
    virtual, real = virtual.double(), real.double()
    within = [(_kernel_sums(rows, rows) - _kernel_diagonal(rows)) / (len(rows) - 1) for rows in (virtual, real)]
    between = (_kernel_sums(virtual, real) + _kernel_sums(real, virtual)) / len(real)
    influence = 2 * (within[0] + within[1] - between)
    return distance + counts.double() @ (influence - influence.mean()) / counts.sum(1)


def _check(virtual: Tensor, real: Tensor) -> None:
    if virtual.ndim != 2 or real.ndim != 2 or virtual.shape[1] != real.shape[1] or min(len(virtual), len(real)) < 2:
        shapes = " and ".join(" × ".join(map(str, rows.shape)) for rows in (virtual, real))
        raise ShapeError(f"expected two feature matrices of one width with at least 2 rows each, got {shapes}")


def _factors(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, and Q and R of the centred features with covariance RᵀR."""
    features = features.double()
    mean = features.mean(0)
    basis, factor = torch.linalg.qr((features - mean) / math.sqrt(len(features) - 1))
    return mean, basis, factor


def _influence(features: Tensor, mean: Tensor, shift: Tensor, vectors: Tensor, singular: Tensor) -> Tensor:
    centred = features.double() - mean
    tiles = len(features)
    own = 2 * centred @ shift + centred.square().sum(1) * tiles / (tiles - 1)
    shared = tiles * (vectors.square() * singular).sum(1)
    return own - shared - (own - shared).mean()


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.mT / first.shape[1] + 1) ** 3


def _kernel_diagonal(rows: Tensor) -> Tensor:
    return (rows.square().mean(1) + 1) ** 3


def _discrepancy(virtual: Tensor, real: Tensor) -> Tensor:
    within = [
        (_kernel(rows, rows).sum() - _kernel_diagonal(rows).sum()) / (len(rows) * (len(rows) - 1))
        for rows in (virtual, real)
    ]
    return within[0] + within[1] - 2 * _kernel(virtual, real).mean()


def _kernel_sums(first: Tensor, second: Tensor) -> Tensor:
    """For each row of the first, the sum of the kernel over all rows of the second, block by block."""
    return torch.cat([_kernel(rows, second).sum(1) for rows in torch.split(first, KERNEL_BLOCK)])
