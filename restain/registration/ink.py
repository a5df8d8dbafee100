"""Finds pen marks and the black border of a scan: what hides the tissue beneath it and looks like dense nuclei."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from restain.image import RGB
from restain.slides.tissue import grow

DENSE, DARK = 0.35, 0.5
"""Optical densities in red light, above that of the glass: of ink alone at least, and of ink over tissue."""
RED_TO_GREEN = 0.95
"""Haematoxylin, eosin and DAB all absorb more green than red. Where red is absorbed as much, it is ink: black, blue or
green. Of 205,000 pixels of 8 µm of real tissue (BCI, MIST and colon; H&E and IHC) none is as dense and so coloured.
Over tissue, ink takes on some of its colour; there, what is dark and touches ink is ink. Red ink is not found; it
absorbs little of what haematoxylin absorbs, and does no harm."""
_MARGIN_UM = 24.0  # around ink, where it mixes with what lies beside it


def ink_of(rgb: RGB, mpp: float) -> NDArray[np.bool_]:
    """Where ink or a black border is, with a margin: H x W x 3 to H x W.

    Args:
        rgb: a coarse image of a slide.
        mpp: its micrometres per pixel.
    """
    light = rgb[..., :2] / glass_of(rgb)[:2].astype(np.float32)
    red, green = np.moveaxis(-np.log10(light.clip(1 / 255, 1)), -1, 0)
    square = np.ones((3, 3))
    ink = ndimage.binary_opening((red > DENSE) & (red > RED_TO_GREEN * green), square)  # no specks
    ink = ndimage.binary_propagation(ink, square, ink | (red > DARK))
    return grow(ink, _MARGIN_UM / mpp)


def glass_of(rgb: RGB, share: float = 0.1) -> NDArray[np.float64]:
    """Colour of the glass: the median of the brightest pixels, of which glass is taken to be this share."""
    brightness = rgb.min(axis=2)
    glass = np.median(rgb[brightness >= np.quantile(brightness, 1 - share)], axis=0)
    return np.asarray(glass.clip(1), np.float64)
