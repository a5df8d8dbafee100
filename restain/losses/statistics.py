"""Similarity of global image statistics, regardless of position."""

from torch import Tensor

from restain.tensors import full_precision, same_shape

PUBLISHED_PIXELS = 512**2
"""A constant of VSMT's published code, whose crops have this many pixels. It does not depend on the image size."""


@full_precision
def spread_loss(virtual: Tensor, real: Tensor, weight: float = 0.01) -> Tensor:
    """Difference in contrast between virtual and real IHC (VSMT, L_std).

    The squared difference of each colour's variance, times 512² and the weight, mean over colours. Where that is above
    1 for an image, it is divided by its own value: the loss is then 1 and its gradient shrinks to match.

    The weight stands inside the limit, as in the published code. There the loss is at its limit in most early steps.

    Args:
        virtual: B x C x H x W.
        real: B x C x H x W.
        weight: factor inside the limit of 1.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, real=real)
    difference = virtual.var(dim=(2, 3), correction=0) - real.var(dim=(2, 3), correction=0)
    terms = difference.square().mean(dim=1) * PUBLISHED_PIXELS * weight
    return (terms / terms.detach().clamp_min(1)).mean()
