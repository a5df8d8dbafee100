"""Multi-scale similarity for pairs that are not registered: fine scales have little weight, coarse ones much."""

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from restain.errors import ShapeError
from restain.tensors import full_precision, same_shape

LEVEL_WEIGHTS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Weights from the finest level to the coarsest."""

PYRAMID_SMALLEST_PX = (1 << (len(LEVEL_WEIGHTS) - 1)) + 1
"""The shortest side with so many levels."""

BLURS_PER_OCTAVE = 4


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


@full_precision
def octave_l1_losses(virtual: Tensor, real: Tensor, octaves: int = 4) -> list[Tensor]:
    """Compare two images at full size and at coarser octaves (PyramidP2P, Liu et al. 2022).

    From one octave to the next, the images are blurred four times (3 x 3 Gaussian, standard deviation 1 px, borders
    mirrored), and every second pixel is kept. Blurring is linear, so the difference of the images is carried down.

    Args:
        virtual: B x C x H x W.
        real: B x C x H x W.
        octaves: number of octaves, including the full size.

    Returns:
        The mean absolute difference in each octave, finest first.

    Raises:
        ShapeError: the shapes differ, or the images are too small for so many octaves.
    """
    same_shape(virtual=virtual, real=real)
    side, least = min(virtual.shape[-2:]), 2 ** (octaves - 1) + 1
    if side < least:
        raise ShapeError(f"{octaves} octaves need images of at least {least} px, not {side}; give fewer octaves")
    difference = virtual - real
    losses = [difference.abs().mean()]
    for _ in range(octaves - 1):
        for _ in range(BLURS_PER_OCTAVE):
            difference = _gaussian_blur(difference)
        difference = difference[..., ::2, ::2]
        losses.append(difference.abs().mean())
    return losses


def _gaussian_blur(images: Tensor) -> Tensor:
    """Filter with the weights exp(-distance² / 2), normalised, along both axes; borders are mirrored."""
    middle = 1 / (1 + 2 * math.exp(-0.5))
    blurred = F.pad(images, (1, 1, 1, 1), mode="reflect")
    for axis in (2, 3):
        a, b, c = (blurred.narrow(axis, start, blurred.shape[axis] - 2) for start in range(3))
        blurred = (a + c) * ((1 - middle) / 2) + b * middle
    return blurred


def _blur(images: Tensor) -> Tensor:
    """Weigh each pixel's neighbours by 1, 4, 6, 4, 1 sixteenths along both axes; borders are mirrored."""
    blurred = F.pad(images, (2, 2, 2, 2), mode="reflect")
    for axis in (2, 3):
        a, b, c, d, e = (blurred.narrow(axis, start, blurred.shape[axis] - 4) for start in range(5))
        blurred = (a + e + 4 * (b + d) + 6 * c) / 16
    return blurred
