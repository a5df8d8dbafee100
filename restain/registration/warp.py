"""Warps images of the second section to the first."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from restain.registration.field import Field, Floats, Map, Raster


def places_on(moved: Map, box: Raster) -> Floats:
    """Where the pixels of a box lie in the other section, 2 x H x W (x, y) in µm."""
    if isinstance(moved, Field):
        return moved.on(box) + np.stack(np.meshgrid(box.columns, box.rows))
    x, y = np.meshgrid(box.columns, box.rows)
    return moved(np.stack([x.ravel(), y.ravel()], axis=1)).T.reshape(2, box.height, box.width)


def source_limits(places: Floats) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge, in µm, of what must be read to draw the places of `places_on`."""
    left, top = places.min(axis=(1, 2))
    right, bottom = places.max(axis=(1, 2))
    return float(left), float(top), float(right), float(bottom)


def warp(image: NDArray[np.uint8], source: Raster, places: Floats) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw an image at given places; cubic convolution (Keys 1981), so that nuclei stay sharp.

    Args:
        image: H x W x 3 RGB, the pixels of `source`. Its resolution should be near that of the places.
        source: where the image lies on its section.
        places: position of each pixel to draw, 2 x h x w (x, y) in µm, as from `places_on`.

    Returns:
        RGB, h x w x 3, and whether each pixel is covered by the image, h x w; pixels that are not continue its edge.
    """
    covered = (
        (places[0] >= source.x)
        & (places[0] <= source.x + source.width * source.mpp)
        & (places[1] >= source.y)
        & (places[1] <= source.y + source.height * source.mpp)
    )
    scale = np.array([source.width, source.height]) * source.mpp / 2
    grid = (places - np.array([source.x, source.y])[:, None, None]) / scale[:, None, None] - 1
    pixels = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None]  # a copy: it may be read-only
    drawn = F.grid_sample(
        pixels,
        torch.from_numpy(grid).permute(1, 2, 0)[None].float(),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    rgb: NDArray[np.uint8] = drawn[0].round_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return rgb, covered
