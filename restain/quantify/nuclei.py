"""Segments nuclei without a trained model: local contrast, then a watershed of the distance transform.

Pixels whose density of nuclear stain exceeds its local mean are foreground. A nucleus is a hill of their distance to
the background: all pixels whose steepest ascent ends on the same top. That is the watershed of the distance transform
(Vincent & Soille 1991), found by following the gradient. Touching nuclei are separated by shape, not by texture.

Any callable from RGB (H x W x 3 uint8) to labels (H x W, 0 is background) can replace it, for instance a StarDist or
InstanSeg model.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from restain.errors import InputError
from restain.image import RGB
from restain.quantify.density import Float32s, densities, smooth
from restain.stains import Marker

Labels = NDArray[np.int32]
NucleusSegmenter = Callable[[RGB], Labels]
"""Segments the nuclei of an image: labels H x W, 0 is background."""

NUCLEUS_UM = 6.0
"""Diameter of a typical nucleus in a section."""

CONTRAST = 0.04
"""Least optical density by which a nucleus exceeds its surroundings."""

SURROUNDINGS = 2.0
"""Standard deviation of the Gaussian that defines the surroundings, in diameters of a nucleus."""

SMALLEST = 0.2
"""Area of the smallest nucleus that counts, as a share of the typical one. Smaller holes in nuclei are closed."""

GRAIN_UM = 0.4
"""Standard deviation of the blur that removes noise and chromatin texture."""

SHAPE_UM = 0.5
"""Standard deviation of the blur of the distance to the background, so that a rough outline creates no hills."""


def find_nuclei(rgb: RGB, mpp: float, marker: Marker = "membrane", nucleus_um: float = NUCLEUS_UM) -> Labels:
    """Segment nuclei.

    Args:
        rgb: IHC, or H&E (with "membrane"), H x W x 3.
        mpp: µm per pixel, at most a sixth of a nucleus.
        marker: "nuclear" counts DAB as nuclear stain too; "membrane" uses haematoxylin alone.
        nucleus_um: diameter of a typical nucleus.

    Returns:
        Labels H x W: 0 is background, 1 to N are the nuclei. Each is connected.

    Raises:
        InputError: the pixels are too coarse for such nuclei.
    """
    if mpp > nucleus_um / 6:
        raise InputError(
            f"at {mpp:g} µm per pixel a nucleus of {nucleus_um:g} µm is less than 6 px across; use a finer image,"
            " or correct mpp"
        )
    haematoxylin, dab = densities(rgb)
    density = haematoxylin + dab if marker == "nuclear" else haematoxylin
    smallest_px = SMALLEST * np.pi / 4 * (nucleus_um / mpp) ** 2
    clear = smooth(density, GRAIN_UM / mpp)
    foreground = clear > smooth(density, SURROUNDINGS * nucleus_um / mpp) + CONTRAST
    blob = _blob(density, nucleus_um / mpp)
    foreground = _without_holes(foreground & (blob > 0), smallest_px)
    distance = np.asarray(ndimage.distance_transform_edt(foreground), np.float32)
    hills = _hills(smooth(distance, SHAPE_UM / mpp), foreground)
    return _worthy(hills, blob, smallest_px)


def _blob(density: Float32s, diameter_px: float) -> Float32s:
    """Laplacian of Gaussian, strongest for discs of a diameter (Lindeberg 1998); positive inside them."""
    sigma = diameter_px / 2 / np.sqrt(2)
    response = ndimage.gaussian_laplace(density, sigma, truncate=4, output=np.float32)
    return np.asarray(-(sigma**2) * response, np.float32)


def _without_holes(foreground: NDArray[np.bool_], largest_px: float) -> NDArray[np.bool_]:
    """Fill small holes, such as the pale centre of a nucleus."""
    holes, _ = ndimage.label(~foreground)
    small = np.bincount(holes.ravel()) < largest_px
    small[0] = False
    return np.asarray(foreground | small[holes])


def _hills(height: Float32s, foreground: NDArray[np.bool_]) -> Labels:
    """Give every foreground pixel the label of the top that its steepest ascent leads to."""
    rows, columns = height.shape
    place = np.arange(height.size, dtype=np.int32).reshape(height.shape)
    walled = np.pad(np.where(foreground, height, -np.inf).astype(np.float32), 1, constant_values=-np.inf)
    best, up = walled[1:-1, 1:-1].copy(), place.copy()
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            neighbour = walled[down : down + rows, right : right + columns]
            higher = neighbour > best
            best[higher] = neighbour[higher]
            up[higher] = place[higher] + np.int32((down - 1) * columns + right - 1)
    upwards = up.ravel()
    while not np.array_equal(further := upwards[upwards], upwards):  # each round doubles the distance
        upwards = further
    tops = np.where(foreground, upwards.reshape(height.shape), -1)
    names, labels = np.unique(tops, return_inverse=True)
    return np.asarray(labels.reshape(height.shape) + (names[0] >= 0), np.int32)


def _worthy(labels: Labels, blob: Float32s, smallest_px: float) -> Labels:
    """Drop hills that are too small or too flat, and number the rest."""
    areas = np.bincount(labels.ravel())
    keep = areas >= smallest_px
    keep &= np.asarray(ndimage.maximum(blob, labels, np.arange(len(areas)))) > CONTRAST
    keep[0] = False
    numbers = (np.cumsum(keep) * keep).astype(np.int32)
    return np.asarray(numbers[labels], np.int32)
