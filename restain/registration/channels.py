"""Channels that both stains share and that can be compared: nuclei and tissue.

Nuclei are visible in haematoxylin. Where DAB hides them, lumens and the edge of the tissue remain. Local normalisation
removes uneven and unequal staining: each pixel is measured against its local mean.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter
from torch import Tensor

from restain.registration.field import Floats, Raster
from restain.stains import HED_UNIT, optical_density, rgb_to_hed, to_unit

Values = NDArray[np.float32]

CHANNEL_WEIGHTS: Values = np.array([1.0, 0.2], dtype=np.float32)
"""Weights of haematoxylin and tissue. On registered colon tiles they correlate by 0.93 and 0.67."""
TISSUE_DENSITY = 0.3
"""Optical density, summed over the colours, at which a pixel is half tissue."""
FAINT = 0.03
"""Contrast, as a standard deviation of either channel, with a weight of one half: less is mostly noise."""


@dataclass(frozen=True)
class Channels:
    """Aligned images of one section, with the upper left corner at (0, 0)."""

    values: Values
    """C x h x w."""
    pitch: float
    """Width of a pixel, in the unit of positions."""

    @property
    def box(self) -> Raster:
        """Where the pixels lie."""
        _, height, width = self.values.shape
        return Raster(0, 0, width, height, self.pitch)

    def at(self, places: Floats) -> tuple[Values, Values]:
        """Values at places, by straight lines between pixels.

        Args:
            places: positions, 2 x H x W (x, y).

        Returns:
            C x H x W, fading to 0 outside, and how much of each lies inside, H x W in [0, 1].
        """
        height, width = self.values.shape[-2:]
        half = np.array([width, height])[:, None, None] * self.pitch / 2
        grid = torch.from_numpy((places / half - 1).astype(np.float32)).permute(1, 2, 0)[None]
        image = torch.from_numpy(np.concatenate([self.values, np.ones((1, height, width), np.float32)]))[None]
        drawn: Values = F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)[0].numpy()
        return drawn[:-1], drawn[-1]

    def halved(self) -> "Channels":
        """Averaged over 2 x 2 px; an odd last row or column is left out."""
        return Channels(F.avg_pool2d(torch.from_numpy(self.values)[None], 2)[0].numpy(), 2 * self.pitch)

    def normalised(self, blur_px: float, window_px: int) -> "Channels":
        """Blurred, and divided by the contrast around each pixel.

        Args:
            blur_px: standard deviation; 0 leaves all detail.
            window_px: side of the square in which mean and contrast are taken.

        Returns:
            Values about -2 to 2 where there is structure, near 0 where there is none.
        """
        blurred = gaussian_filter(self.values, (0, blur_px, blur_px), mode="nearest") if blur_px else self.values
        window = (0, window_px, window_px)
        centred = blurred - uniform_filter(blurred, window, mode="nearest")
        contrast = np.sqrt(np.maximum(uniform_filter(centred**2, window, mode="nearest"), 0))
        return Channels(centred / (contrast + FAINT), self.pitch)


def shared_channels(image: Tensor, longest_px: int) -> Channels:
    """Nuclei and tissue of an image, averaged down.

    Args:
        image: 1 x 3 x H x W in [-1, 1].
        longest_px: the longest side of the result, at most; smaller images stay as they are.

    Returns:
        Optical density of haematoxylin, and how much of a pixel is tissue in [0, 1]; positions are in px of the image.
    """
    rgb = to_unit(image)
    haematoxylin = rgb_to_hed(rgb)[:, :1] * HED_UNIT
    density = optical_density(rgb).sum(1, keepdim=True)
    both = torch.cat([haematoxylin, density / (density + TISSUE_DENSITY)], 1)
    factor = max(1.0, max(both.shape[-2:]) / longest_px)
    if factor > 1:
        both = F.interpolate(both, [max(1, round(side / factor)) for side in both.shape[-2:]], mode="area")
    return Channels(both[0].float().numpy(), factor)


def correlation(first: Values, second: Values, inside: NDArray[np.float32] | NDArray[np.bool_]) -> float:
    """Of two images that are even on average, where both are seen; 0 where nothing is."""
    ours, theirs = first * inside, second * inside
    strength = float((ours**2).sum()) * float((theirs**2).sum())
    return float((ours * theirs).sum()) / strength**0.5 if strength > 0 else 0.0
