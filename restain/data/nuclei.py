"""The density of nuclei over a whole tile, which TDKStain's estimator learns (MICCAI 2024).

Each nucleus counts as one, at its centre; a Gaussian makes a density of the points, and the range of a tile is
stretched to 8 bits. So a map shows relative density within its tile, not between tiles. A map is made once for the
whole tile and cropped with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from restain.errors import ShapeError
from restain.image import RGB, atomic_path
from restain.quantify.nuclei import NUCLEUS_UM, Labels, find_nuclei
from restain.stains import Marker

SPREAD_PX = 11.0
"""Standard deviation of the Gaussian, as published for tiles of 0.46 µm per pixel; it is cut at four times as much."""


def nuclear_centres(labels: Labels) -> NDArray[np.float64]:
    """Row and column of each nucleus's centre of mass, N x 2 px, from labels H x W (0 is background)."""
    found = np.unique(labels[labels > 0])
    return np.asarray(ndimage.center_of_mass(labels > 0, labels, found), np.float64).reshape(-1, 2)


def density_map(centres: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw the density of nuclei.

    Args:
        centres: row and column of each nucleus, N x 2 px; rounded to the nearest pixel.
        size: height and width of the tile, px.

    Returns:
        H x W: 0 where nuclei are sparsest, 255 where they are densest; 0 everywhere if there are none.

    Raises:
        ShapeError: a centre lies outside the tile.
    """
    pixels = np.rint(centres).astype(np.int64).reshape(-1, 2)
    if (pixels < 0).any() or (pixels >= size).any():
        raise ShapeError(f"a nucleus lies outside its tile of {size[1]} x {size[0]} px; give centres in px of the tile")
    points = np.zeros(size)
    np.add.at(points, tuple(pixels.T), 1.0)
    density = ndimage.gaussian_filter(points, SPREAD_PX, truncate=4, mode="nearest")
    low, high = density.min(), density.max()
    stretched = (density - low) / (high - low) * 255 if high > low else np.zeros(size)
    return stretched.astype(np.uint8)


@dataclass(frozen=True)
class NuclearMaps:
    """Maps of a data set's real IHC, stored as 8-bit PNGs when they are first needed."""

    folder: Path
    """One file per tile, with its name; created if missing."""
    nucleus_px: int
    """Diameter of a typical nucleus, at least 6."""
    marker: Marker = "membrane"
    """Where DAB lies on positive cells; with `nuclear`, DAB counts as nuclear stain too."""

    def of(self, name: str, load: Callable[[], RGB]) -> NDArray[np.uint8]:
        """The map of one tile, H x W.

        Args:
            name: of the tile.
            load: reads its IHC, H x W x 3; called only if the map is missing or damaged.

        Raises:
            OutputError: the map cannot be written.
        """
        path = self.folder / f"{name}.png"
        if (kept := _read(path)) is not None:
            return kept
        rgb = load()
        density = density_map(nuclear_centres(self.find(rgb)), rgb.shape[:2])
        with atomic_path(path) as temporary:
            Image.fromarray(density).save(temporary)
        return density

    def find(self, rgb: RGB) -> Labels:
        """Nuclei of an IHC, H x W x 3, as labels H x W, by `restain.quantify.nuclei.find_nuclei`."""
        return find_nuclei(rgb, NUCLEUS_UM / self.nucleus_px, self.marker)


def _read(path: Path) -> NDArray[np.uint8] | None:
    """A stored map, or None."""
    if not path.is_file():
        return None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.array(image) if image.mode == "L" else None
    except (OSError, SyntaxError, ValueError):  # a damaged file
        return None
