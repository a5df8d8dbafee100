"""Likeness at many scales, for pairs that are not in register: fine scales count little, coarse ones much."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from restain.errors import ShapeError
from restain.precision import full_precision
from restain.shapes import same_shape

LEVEL_WEIGHTS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""From the finest level to the coarsest."""


@full_precision
def gaussian_pyramid_loss(virtual: Tensor, real: Tensor, weights: Sequence[float] = LEVEL_WEIGHTS) -> Tensor:
    """Compare two images at every level of a Gaussian pyramid (ASP, Li et al. 2023; VSMT, L_gp).

    A level is blurred (5 x 5 binomial) and compared; every second pixel of it makes the next level. The last level is
    compared without a further blur. Blurring is linear, so the difference of the images is carried down, once.

    Args:
        virtual: B x C x H x W.
        real: B x C x H x W.
        weights: of each level's mean absolute difference, finest first; the loss is the mean of these products.

    Raises:
        ShapeError: the shapes differ, or the images are too small for so many levels.
    """
    same_shape(virtual=virtual, real=real)
    side, least = min(virtual.shape[-2:]), 2 ** (len(weights) - 1) + 1
    if side < least:
        raise ShapeError(f"{len(weights)} levels need images of at least {least} px, not {side}; give fewer weights")
    difference = virtual - real
    total = difference.new_zeros(())
    for weight in weights[:-1]:
        difference = _blur(difference)
        total = total + weight * difference.abs().mean()
        difference = difference[..., ::2, ::2]
    return (total + weights[-1] * difference.abs().mean()) / len(weights)


def _blur(images: Tensor) -> Tensor:
    """Weigh each pixel's neighbours by 1, 4, 6, 4, 1 sixteenths along both axes; borders are mirrored."""
    blurred = F.pad(images, (2, 2, 2, 2), mode="reflect")
    for axis in (2, 3):
        a, b, c, d, e = (blurred.narrow(axis, start, blurred.shape[axis] - 4) for start in range(5))
        blurred = (a + e + 4 * (b + d) + 6 * c) / 16
    return blurred
