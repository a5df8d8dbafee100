"""Spatial alignment: which regions of the real IHC show what each region of the virtual IHC shows (VSMT, 2026).

Features lie on a grid of N square regions, counted row by row. The regions of both images are clustered, the clusters
are matched (active–passive matching), and similarity inside matched clusters becomes the alignment: weights, B x N x N,
row = virtual region, column = real region, rows sum to 1. Optimal transport and the identity serve as comparisons.

Everything is batched, gives the same result for a batch as for single images, and never synchronises with the device.
"""

from collections.abc import Sequence
from itertools import permutations
from math import isqrt

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from restain.errors import InputError, ShapeError
from restain.tensors import full_precision, same_shape

TINY = 1e-6
"""Features shorter than this count as zero; it also bounds their gradient."""


@full_precision
def region_similarity(virtual: Tensor, real: Tensor) -> Tensor:
    """Compare every virtual region with every real one.

    Args:
        virtual: features of the virtual IHC, B x C x h x w.
        real: features of the real IHC, B x C x h x w.

    Returns:
        Cosines, B x N x N with N = h·w; 0 where a feature is 0.

    Raises:
        ShapeError: the two shapes differ.
    """
    same_shape(virtual=virtual, real=real)
    return F.normalize(virtual, dim=1, eps=TINY).flatten(2).mT @ F.normalize(real, dim=1, eps=TINY).flatten(2)


@torch.no_grad()
@full_precision
def spherical_kmeans(
    points: Tensor, clusters: int, generator: Generator, restarts: int = 8, iterations: int = 64
) -> Tensor:
    """Cluster by direction: k-means with the cosine for closeness, the best of several starts per image.

    All starts run together, and each begins at points that are drawn once and used in every image of the batch. The
    number of iterations is fixed: testing for convergence would synchronise with the device, and converged starts do
    not change. Departs from VSMT's published code, which compares raw features by their product, so that long centres
    win; ours are normalised.

    Args:
        points: B x M x C.
        clusters: K, at most M.
        generator: for the first centres, on the CPU.
        restarts: starts to choose from.
        iterations: times that centres move.

    Returns:
        The cluster of each point, B x M, int64, 0 to K - 1. A cluster may be empty where fewer than K points differ.

    Raises:
        ShapeError: fewer points than clusters.
    """
    batch, count, _ = points.shape
    if clusters > count:
        raise ShapeError(f"{clusters} clusters need at least as many points, but there are {count}; use fewer clusters")
    directions = F.normalize(points, dim=-1, eps=TINY)
    starts = torch.cat([torch.randperm(count, generator=generator)[:clusters] for _ in range(restarts)])
    centres = directions[:, starts.to(points.device, non_blocking=True)]  # B x (restarts·K) x C

    def closeness() -> Tensor:
        return (directions @ centres.mT).view(batch, count, restarts, clusters)

    for _ in range(iterations):
        members = _members(closeness().argmax(-1), clusters, directions.dtype).flatten(2)
        moved = F.normalize(members.mT @ directions, dim=-1, eps=TINY)
        centres = torch.where(members.sum(1).unsqueeze(-1) > 0, moved, centres)
    closest, labels = closeness().max(-1)  # B x M x restarts
    best = closest.sum(1).argmax(-1).view(batch, 1, 1)
    return labels.gather(-1, best.expand(-1, count, -1)).squeeze(-1)


@torch.no_grad()
@full_precision
def silhouette(points: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Silhouette score of a clustering (Rousseeuw 1987), with 1 - cosine as distance.

    Args:
        points: B x M x C.
        labels: cluster of each point, B x M, 0 to `clusters` - 1; clusters may be empty.
        clusters: number of clusters.

    Returns:
        The mean over points, in [-1, 1], per image: B. A point alone in its cluster scores 0, and so does every point
        if there is only one cluster.
    """
    directions = F.normalize(points, dim=-1, eps=TINY)
    members = _members(labels, clusters, directions.dtype)  # B x M x K
    sizes = members.sum(1, keepdim=True)
    distances = (1 - directions @ directions.mT) @ members  # of a point to all points of a cluster, summed
    own_size = sizes.expand_as(members).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    itself = 1 - directions.square().sum(-1)
    own = distances.gather(-1, labels.unsqueeze(-1)).squeeze(-1).sub(itself) / (own_size - 1).clamp_min(1)
    other = (distances / sizes).masked_fill((members > 0) | (sizes == 0), torch.inf).amin(-1)
    counts = (own_size > 1) & other.isfinite()
    scores = (other - own) / torch.maximum(own, other).clamp_min(TINY)
    return torch.where(counts, scores, 0).mean(-1)


def choose_clusters(
    points: Tensor, generator: Generator, candidates: Sequence[int] = (2, 3, 4, 5), *, images_per_choice: int = 1
) -> Tensor:
    """Cluster each image separately, with the number of clusters that maximises the silhouette; the smallest on ties.

    Beyond VSMT, which fixes K = 3 and names that as a limitation.

    Args:
        points: B x M x C.
        generator: for the first centres, on the CPU.
        candidates: numbers of clusters to try.
        images_per_choice: images that get the same number, the one that suits them best together: with 2, the first
            half of the batch shares it with the second half, image by image. They can then be matched.

    Returns:
        Labels, B x M, int64. Images may differ in their number of clusters: an image with K of them uses 0 to K - 1.
        `active_passive_matching` with `clusters=max(candidates)` then matches just these in each image.
    """
    labels = torch.stack([spherical_kmeans(points, clusters, generator) for clusters in candidates])
    scores = torch.stack(
        [silhouette(points, tried, clusters) for tried, clusters in zip(labels, candidates, strict=True)]
    )
    shared = scores.view(len(candidates), images_per_choice, -1).sum(1)
    best = shared.argmax(0).repeat(images_per_choice).view(1, -1, 1)
    return labels.gather(0, best.expand(-1, -1, labels.shape[-1])).squeeze(0)


@torch.no_grad()
@full_precision
def active_passive_matching(similarity: Tensor, virtual_labels: Tensor, real_labels: Tensor, clusters: int) -> Tensor:
    """Match clusters one to one by their two most similar pairs; the others follow by elimination (VSMT, APM).

    Of all K! bijections, the one with the largest sum of its two largest similarities is kept; the similarity of two
    clusters is the mean over their pairs of regions. A cluster that is empty in one image has the lowest similarity
    (-1). One that is empty in both is matched with itself and ignored.

    Args:
        similarity: cosines, B x N x N, row = virtual region, column = real region.
        virtual_labels: cluster of each virtual region, B x N, 0 to K - 1.
        real_labels: cluster of each real region, B x N, 0 to K - 1.
        clusters: K, 2 to 5.

    Returns:
        The real cluster of each virtual cluster, B x K, int64.

    Raises:
        InputError: K is not from 2 to 5.
    """
    if not 2 <= clusters <= 5:
        raise InputError(f"clusters must be 2 to 5, because all K! ways to match them are tried, but it is {clusters}")
    virtual = _members(virtual_labels, clusters, similarity.dtype)
    real = _members(real_labels, clusters, similarity.dtype)
    pairs = virtual.sum(1).unsqueeze(2) * real.sum(1).unsqueeze(1)
    means = torch.where(pairs > 0, (virtual.mT @ similarity @ real) / pairs.clamp_min(1), -1)

    own = torch.arange(clusters, device=similarity.device)
    bijections = torch.tensor(list(permutations(range(clusters)))).to(similarity.device, non_blocking=True)
    absent = (virtual.sum(1) + real.sum(1) == 0).unsqueeze(1)  # B x 1 x K
    moves_absent = (absent & (bijections != own)).any(-1)
    scores = means[:, own, bijections].topk(2).values.sum(-1).masked_fill(moves_absent, -torch.inf)
    return bijections[scores.argmax(-1)]


@full_precision
def sparsemax(logits: Tensor, dim: int = -1) -> Tensor:
    """Project onto the simplex: like softmax, but weak entries become exactly 0 (Martins & Astudillo 2016)."""
    logits = logits - logits.amax(dim, keepdim=True)
    ordered = logits.movedim(dim, -1).sort(descending=True).values
    ranks = torch.arange(1, ordered.shape[-1] + 1, device=logits.device)
    kept = 1 + ranks * ordered > ordered.cumsum(-1)
    threshold = (torch.where(kept, ordered, 0).sum(-1, keepdim=True) - 1) / kept.sum(-1, keepdim=True)
    return (logits - threshold.movedim(-1, dim)).clamp_min(0)


@full_precision
def alignment_matrix(
    virtual: Tensor, real: Tensor, virtual_labels: Tensor, real_labels: Tensor, permutation: Tensor
) -> Tensor:
    """Weigh all real regions for each virtual one: sparsemax of cosine + 1 in the matched cluster, 0 elsewhere (VSMT).

    Where the matched real cluster is empty, all real regions count. Differentiable in both features.

    Args:
        virtual: features of the virtual IHC, B x C x h x w.
        real: features of the real IHC, B x C x h x w.
        virtual_labels: cluster of each virtual region, B x N, N = h·w.
        real_labels: cluster of each real region, B x N.
        permutation: real cluster of each virtual cluster, B x K.

    Returns:
        The alignment, B x N x N.
    """
    matched = permutation.gather(1, virtual_labels).unsqueeze(2) == real_labels.unsqueeze(1)
    matched = matched | ~matched.any(-1, keepdim=True)
    return sparsemax(torch.where(matched, region_similarity(virtual, real) + 1, 0))


@full_precision
def sinkhorn_alignment(virtual: Tensor, real: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Align by entropic optimal transport over all regions, each with the same mass (Cuturi 2013), in the log domain.

    Args:
        virtual: features of the virtual IHC, B x C x h x w.
        real: features of the real IHC, B x C x h x w.
        epsilon: strength of the entropy, in units of the cost 1 - cosine; large values blur, small ones match one to
            one.
        iterations: times that rows and columns are brought to their masses.

    Returns:
        The plan with rows brought to sum 1, B x N x N.
    """
    logits = (region_similarity(virtual, real) - 1) / epsilon
    columns = torch.zeros_like(logits[:, :1])
    for _ in range(iterations):
        rows = -(logits + columns).logsumexp(2, keepdim=True)
        columns = -(logits + rows).logsumexp(1, keepdim=True)
    return (logits + columns).softmax(2)


def identity_alignment(batch: int, regions: int, like: Tensor) -> Tensor:
    """Leave every region where it is: B x N x N, of the type and on the device of `like`."""
    return torch.eye(regions, dtype=like.dtype, device=like.device).expand(batch, -1, -1)


@full_precision
def rearrange(alignment: Tensor, features: Tensor) -> Tensor:
    """Rebuild each region of a feature map as a weighted sum of all regions (VSMT, spatial alignment).

    One product of matrices: N x N with N x (all numbers of a region).

    Args:
        alignment: weights, B x N x N, rows sum to 1. Row = virtual region, column = real region.
        features: real IHC features, B x C x H x W.

    Returns:
        Features on the grid of the virtual IHC, B x C x H x W.

    Raises:
        ShapeError: no grid of N square regions covers H and W.
    """
    count = alignment.shape[-1]
    batch, channels, height, width = features.shape
    side = isqrt(height * width // count)
    if side**2 * count != height * width or height % side or width % side:
        raise ShapeError(f"expected features that {count} square regions cover, but they are {height} × {width}")
    cells = features.reshape(batch, channels, height // side, side, width // side, side)
    regions = cells.permute(0, 2, 4, 1, 3, 5)
    moved = (alignment @ regions.reshape(batch, count, -1)).view(regions.shape)
    return moved.permute(0, 3, 1, 4, 2, 5).reshape(features.shape)


@full_precision
def expected_displacement(alignment: Tensor, size_px: float) -> Tensor:
    """Read an alignment as a displacement field: where a region's content lies in the real IHC, minus its own place.

    Args:
        alignment: weights, B x N x N, rows sum to 1.
        size_px: side of the image that the grid covers, in pixels; the image is square.

    Returns:
        (dx, dy) in pixels, B x 2 x h x w, between the region's centre and the mean of all centres under its weights.

    Raises:
        ShapeError: N is not a square number.
    """
    regions = alignment.shape[-1]
    grid = isqrt(regions)
    if grid**2 != regions:
        raise ShapeError(f"a square image has a square number of regions, 64 for example, but there are {regions}")
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    centres = torch.stack([x, y], dim=-1).view(-1, 2).to(alignment, non_blocking=True) * (size_px / grid)
    return (alignment @ centres - centres).mT.reshape(-1, 2, grid, grid)


def _members(labels: Tensor, clusters: int, dtype: torch.dtype) -> Tensor:
    """Write labels as one-hot rows. `F.one_hot` would wait for the device to check them."""
    return (labels.unsqueeze(-1) == torch.arange(clusters, device=labels.device)).to(dtype)
