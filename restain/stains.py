"""Stains as optical density: Beer–Lambert rendering and colour deconvolution into haematoxylin, eosin and DAB.

A stain absorbs: each unit of it divides the light by a constant per colour, so densities add where light multiplies.
Stain vectors and method: Ruifrok & Johnston, "Quantification of histochemical staining by color deconvolution" (2001).

Images are RGB, N x 3 x H x W, in [0, 1] unless said otherwise. Every function is pure.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from restain.errors import InputError
from restain.tensors import full_precision

Marker = Literal["nuclear", "membrane"]
"""Where DAB lies on positive cells: in the nucleus (Ki67, ER, PR) or around it (HER2, cytokeratin)."""

STAIN_VECTORS = torch.tensor([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], dtype=torch.float64)
"""Optical density in red, green and blue per unit of haematoxylin, eosin and DAB (rows)."""

UNMIXING = torch.linalg.inv(STAIN_VECTORS)
"""Units of haematoxylin, eosin and DAB (columns) per optical density in red, green and blue (rows)."""

HED_UNIT = 6.0
"""Optical density of one unit of `rgb_to_hed`. Light is clamped to at least 10^-6, so no density exceeds this."""

POSITIVE_DENSITY = 0.15
"""DAB density above which a pixel counts as positive. On real HER2 tiles 2 % of the pixels of grades 0 and 1+ lie above
it, 18 % of those of 2+ and 25 % of those of 3+. PSPStain (2024) uses the same threshold of 0.15."""

LEAST_DENSITY = 0.15
"""Pixels with a lower mean optical density over the colours are too pale to estimate stain vectors (Macenko et al.)."""

LEAST_ANGLE = 15.0
"""Smallest angle between the vectors of two stains, in degrees; haematoxylin and DAB are 37 apart."""

DARKEST_MEAN = 1 / 255
"""Images darker than one grey level on average are not brightened further."""


def to_unit(images: Tensor) -> Tensor:
    """Convert images from [-1, 1] to [0, 1]."""
    return (images + 1) / 2


def from_unit(rgb: Tensor) -> Tensor:
    """Convert images from [0, 1] to [-1, 1]."""
    return rgb * 2 - 1


@full_precision
def optical_density(rgb: Tensor) -> Tensor:
    """Convert light to optical density, -log10, in [0, 6] per colour: N x 3 x H x W."""
    return -rgb.clamp(10**-HED_UNIT, 1).log10()


@full_precision
def beer_lambert(density: Tensor, stain_vectors: Tensor) -> Tensor:
    """Render stains under white light (Beer–Lambert).

    Args:
        density: amount of each stain, at least 0, N x S x H x W.
        stain_vectors: optical density in red, green and blue per unit of each stain, S x 3.

    Returns:
        RGB in [0, 1], N x 3 x H x W; 1 where there is no stain.
    """
    return torch.pow(10, -_mix(density, stain_vectors))


@full_precision
def rgb_to_hed(rgb: Tensor) -> Tensor:
    """Separate haematoxylin, eosin and DAB.

    Returns:
        Amounts in units of an optical density of 6 (as in scikit-image), N x 3 x H x W, negative ones raised to 0.
    """
    return _mix(optical_density(rgb), UNMIXING).clamp_min(0) / HED_UNIT


@full_precision
def hed_to_rgb(hed: Tensor) -> Tensor:
    """Render amounts of haematoxylin, eosin and DAB, in the unit of `rgb_to_hed`, as RGB."""
    return beer_lambert(hed * HED_UNIT, STAIN_VECTORS).clamp_max(1)


def dab_density(rgb: Tensor) -> Tensor:
    """Measure the optical density of DAB, at least 0, N x 1 x H x W."""
    return rgb_to_hed(rgb)[:, 2:] * HED_UNIT


def positive_mask(rgb: Tensor, threshold: float = POSITIVE_DENSITY) -> Tensor:
    """Mark the pixels with more DAB than `threshold` (optical density), N x 1 x H x W, bool."""
    return dab_density(rgb) > threshold


def positive_area_fraction(rgb: Tensor, threshold: float = POSITIVE_DENSITY) -> Tensor:
    """Measure the share of pixels with more DAB than `threshold` (optical density): N values in [0, 1]."""
    return positive_mask(rgb, threshold).float().mean(dim=(1, 2, 3))


@full_precision
def estimate_stain_vectors(pixels: Tensor) -> Tensor:
    """Find the vectors of haematoxylin and DAB in IHC, which differ between laboratories and scanners.

    Optical densities lie between the vectors of the two stains, in a plane through the origin; the vectors are the 1st
    and the 99th percentile of the direction in that plane (Macenko et al., ISBI 2009). DAB is the one that absorbs more
    blue than red light.

    Args:
        pixels: RGB in [0, 1], K x 3; of many tiles, some of them with DAB.

    Returns:
        3 x 3, float64, rows of length 1: haematoxylin, what neither stain explains, DAB.

    Raises:
        InputError: the pixels show only one stain, or none.
    """
    density = optical_density(pixels.double())
    density = density[density.mean(1) > LEAST_DENSITY]
    if len(density) >= 100:
        plane = torch.linalg.eigh(density.T @ density).eigenvectors[:, [2, 1]]
        plane = plane * plane[:, :1].sum().sign()
        along, across = (density @ plane).unbind(1)
        angle = torch.atan2(across, along).sort().values
        ends = angle[[len(angle) // 100, -1 - len(angle) // 100]]
        if ends[1] - ends[0] >= math.radians(LEAST_ANGLE):
            first, second = torch.stack([ends.cos(), ends.sin()], 1) @ plane.T
            haematoxylin, dab = (first, second) if first[2] - first[0] < second[2] - second[0] else (second, first)
            rest = torch.linalg.cross(dab, haematoxylin)
            return torch.stack([haematoxylin, rest / rest.norm(), dab])
    raise InputError(
        "stain vectors cannot be estimated: the images do not show two stains; take images with haematoxylin and DAB, "
        "or the vectors of Ruifrok & Johnston"
    )


def vectors_in_words(vectors: Tensor) -> str:
    """Estimated vectors of haematoxylin and DAB as text for a protocol."""
    haematoxylin, _, dab = (" ".join(f"{part:.3f}" for part in vector) for vector in vectors.tolist())
    return f"estimated: haematoxylin {haematoxylin}, DAB {dab}"


@full_precision
def with_reference_stains(rgb: Tensor, stain_vectors: Tensor) -> Tensor:
    """Re-render images with `STAIN_VECTORS`, which all measurements assume.

    Args:
        rgb: N x 3 x H x W in [0, 1].
        stain_vectors: of the stains in the images, 3 x 3 as from `estimate_stain_vectors`.
    """
    exchange = torch.linalg.inv(stain_vectors.double()) @ STAIN_VECTORS
    return torch.pow(10, -_mix(optical_density(rgb), exchange)).clamp_max(1)


@full_precision
def normalise_brightness(images: Tensor) -> Tensor:
    """Scale the light of each image so that its mean is mid-grey (VSMT, inputs of the auxiliary networks).

    Args:
        images: N x 3 x H x W in **[-1, 1]**.

    Returns:
        Images in [-1, 1]. In [0, 1] their mean is 0.5, less where bright pixels had to be clamped.
    """
    light = to_unit(images)
    mean = light.mean(dim=(1, 2, 3), keepdim=True)
    return from_unit((light * (0.5 / mean.clamp_min(DARKEST_MEAN))).clamp(0, 1))


def _mix(channels: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the channels of every pixel, as a row, by a matrix."""
    return torch.einsum("nshw,sc->nchw", channels, matrix.to(channels, non_blocking=True))
