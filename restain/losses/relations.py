"""What holds between things rather than of them: likeness among images of a batch, transport between places.

Both are the supervised information that SIM-GAN mines from weakly paired images (Guan et al. 2025).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from restain.alignment import TINY
from restain.errors import ShapeError
from restain.tensors import full_precision, same_shape


@full_precision
def image_similarity(features: Tensor) -> Tensor:
    """Cosines among the images of a batch, each taken as one long vector: N x ... to N x N."""
    directions = F.normalize(features.flatten(1), dim=1, eps=TINY)
    return directions @ directions.mT


def correlation_loss(virtual: Tensor, source: Tensor) -> Tensor:
    """Images that are alike before staining should be as alike after: L1 between the batch's matrices of cosines.

    Unlike the other losses it is one number for the batch, not a mean over its images.

    Args:
        virtual: features of the virtual IHC, N x P x C.
        source: features of the H&E at the same places, same shape. It takes no gradient.

    Raises:
        ShapeError: the shapes differ, or there is but one image.
    """
    same_shape(virtual=virtual, source=source)
    if len(virtual) < 2:
        raise ShapeError("likeness among images needs a batch of at least 2, but it holds 1; raise batch_size")
    return F.l1_loss(image_similarity(virtual), image_similarity(source).detach())


@full_precision
def transport_plan(first: Tensor, second: Tensor, epsilon: float = 1.0, iterations: int = 50) -> Tensor:
    """Entropic optimal transport between two sets of places of equal mass (Sinkhorn; Cuturi 2013).

    The cost is 1 - cosine. Scalings are multiplied, not added as logarithms: costs lie in [0, 2], so that nothing can
    vanish while epsilon is at least 0.05, and only vectors have to be kept for the gradient. For smaller ones there is
    `restain.alignment.sinkhorn_alignment`.

    Args:
        first: features of length 1, N x P x C.
        second: features of length 1, N x Q x C.
        epsilon: strength of the entropy; large blurs, small matches one to one.
        iterations: times that rows and columns are brought to their masses.

    Returns:
        N x P x Q; columns sum to 1/Q, rows to 1/P as far as the iterations have come, all together to 1.
    """
    kernel = ((first @ second.mT - 1) / epsilon).exp()
    count, places, others = kernel.shape
    columns = kernel.new_ones(count, others, 1)
    for _ in range(iterations):
        rows = (1 / places) / (kernel @ columns)
        columns = (1 / others) / (kernel.mT @ rows)
    return rows * kernel * columns.mT


def transport_loss(
    virtual: Tensor, source: Tensor, target: Tensor, epsilon: float = 1.0, iterations: int = 50
) -> Tensor:
    """Mass should go from the virtual IHC to the real one as it does from the H&E: mean L1 between the two plans.

    Departs from the paper in reading the plan of target and virtual IHC the other way round, so that the same place of
    the tissue is in the same row of both plans.

    Args:
        virtual: features of the virtual IHC, of length 1, N x P x C.
        source: features of the H&E at the same places. It takes no gradient.
        target: features of the real IHC, N x Q x C. It takes no gradient.
        epsilon: as in `transport_plan`.
        iterations: as in `transport_plan`.

    Raises:
        ShapeError: the shapes of `virtual` and `source` differ.
    """
    same_shape(virtual=virtual, source=source)
    target = target.detach()
    with torch.no_grad():
        expected = transport_plan(source, target, epsilon, iterations)
    return F.l1_loss(transport_plan(virtual, target, epsilon, iterations), expected)
