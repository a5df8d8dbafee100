"""Relational losses: similarity among images of a batch, transport between positions.

Both are the supervised information that SIM-GAN mines from weakly paired images (Guan et al. 2025).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from restain.alignment import TINY
from restain.errors import ShapeError
from restain.tensors import full_precision, same_shape

SAME_PLACE = -10.0
"""Replaces 1 - cosine where a position would be matched with itself."""


@full_precision
def image_similarity(features: Tensor) -> Tensor:
    """Cosines among the images of a batch, each flattened to a vector: N x ... to N x N."""
    directions = F.normalize(features.flatten(1), dim=1, eps=TINY)
    return directions @ directions.mT


def correlation_loss(virtual: Tensor, real: Tensor) -> Tensor:
    """L1 between the matrices of cosines among the virtual and among the real IHC of a batch.

    Unlike the other losses it is one number for the batch, not a mean over its images.

    Args:
        virtual: features of the virtual IHC, N x C x H x W.
        real: features of the real IHC of the same batch, same shape. It takes no gradient.

    Raises:
        ShapeError: the shapes differ, or there is only one image.
    """
    same_shape(virtual=virtual, real=real)
    if len(virtual) < 2:
        raise ShapeError("similarity among images needs a batch of at least 2, but it has 1; raise batch_size")
    return F.l1_loss(image_similarity(virtual), image_similarity(real).detach())


@full_precision
def transport_plan(first: Tensor, second: Tensor, epsilon: float = 1.0, iterations: int = 50) -> Tensor:
    """Transport plan between features of two images at the same positions (Sinkhorn; Cuturi 2013), as in SIM-GAN.

    The kernel is exp(+(1 - cosine) / epsilon), so that mass goes to what is *unlike*; at the same place it is
    exp(-10 / epsilon), next to nothing. Scalings are multiplied, not added as logarithms: kernels away from the same
    place lie between 1 and exp(2 / epsilon), so that nothing can overflow while epsilon is at least 0.05, and only
    vectors have to be kept for the gradient.

    Args:
        first: features of length 1, N x P x C.
        second: features of length 1 at the same places, N x P x C.
        epsilon: strength of the entropy; large blurs, small matches one to one.
        iterations: times that rows and columns are brought to their masses.

    Returns:
        N x P x P; columns sum to 1, rows as far as the iterations have come.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(first=first, second=second)
    reward = 1 - first @ second.mT
    places = torch.eye(reward.shape[1], dtype=torch.bool, device=reward.device)
    kernel = (reward.masked_fill(places, SAME_PLACE) / epsilon).exp()
    columns = kernel.new_ones(*kernel.shape[:2], 1)
    for _ in range(iterations):
        rows = 1 / (kernel @ columns)
        columns = 1 / (kernel.mT @ rows)
    return rows * kernel * columns.mT


def transport_loss(
    virtual: Tensor, source: Tensor, target: Tensor, epsilon: float = 1.0, iterations: int = 50
) -> Tensor:
    """Mean L1 between the transport plans of H&E to real IHC and of real to virtual IHC.

    The plans compared are T(x, y) and T(y, v), as published: rows are places of the H&E in the one and of the real IHC
    in the other.

    Args:
        virtual: features of the virtual IHC v, of length 1, N x P x C.
        source: features of the H&E x at the same places. It takes no gradient.
        target: features of the real IHC y at the same places. It takes no gradient.
        epsilon: as in `transport_plan`.
        iterations: as in `transport_plan`.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, source=source, target=target)
    target = target.detach()
    with torch.no_grad():
        expected = transport_plan(source, target, epsilon, iterations)
    return F.l1_loss(transport_plan(target, virtual, epsilon, iterations), expected)
