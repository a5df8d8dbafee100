"""Optical densities of one image as arrays, and smoothing with a known radius."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from restain.image import RGB, to_tensor
from restain.stains import HED_UNIT, rgb_to_hed, to_unit

Float32s = NDArray[np.float32]

REACH = 3.0
"""Radius of Gaussian kernels, in standard deviations."""


def densities(rgb: RGB) -> tuple[Float32s, Float32s]:
    """Optical density of haematoxylin and of DAB (Ruifrok & Johnston 2001), at least 0.

    Args:
        rgb: H x W x 3.

    Returns:
        H x W each.
    """
    haematoxylin, _, dab = (rgb_to_hed(to_unit(to_tensor(rgb)))[0] * HED_UNIT).numpy()
    return haematoxylin, dab


def smooth(values: NDArray[np.floating], sigma_px: float) -> Float32s:
    """Blur with a Gaussian truncated at `REACH` sigmas; the image is reflected at its border."""
    return np.asarray(ndimage.gaussian_filter(values, sigma_px, truncate=REACH, output=np.float32))
