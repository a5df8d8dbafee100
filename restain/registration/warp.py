"""Warps images of the second section to the first."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from restain.registration.field import Affine, Field, Floats, Map, Raster
from restain.registration.transform import Transform

_LATTICE_PX = 16  # between places that are computed; the others are interpolated


def places_on(moved: Map, box: Raster) -> Floats:
    """Where the pixels of a box lie in the other section, 2 x H x W (x, y) in µm; splines go axis by axis."""
    if isinstance(moved, Transform):
        bent = places_on(moved.bend or Affine.identity(), box)
        linear, shift = moved.affine.matrix[:, :2], moved.affine.matrix[:, 2]
        return np.asarray(np.tensordot(linear, bent, 1) + shift[:, None, None])
    if isinstance(moved, Field):
        return moved.on(box) + np.stack(np.meshgrid(box.columns, box.rows))
    x, y = np.meshgrid(box.columns, box.rows)
    return moved(np.stack([x.ravel(), y.ravel()], axis=1)).T.reshape(2, box.height, box.width)


def places_between(moved: Map, box: Raster, lattice_px: int = _LATTICE_PX) -> Floats:
    """As `places_on`, interpolated on a lattice, for maps that take long, such as those that lead back."""
    columns, rows = (np.arange(0, side + lattice_px, lattice_px) for side in (box.width, box.height))
    x, y = np.meshgrid(box.x + (columns + 0.5) * box.mpp, box.y + (rows + 0.5) * box.mpp)
    known = moved(np.stack([x.ravel(), y.ravel()], axis=1)).T.reshape(2, len(rows), len(columns))
    across, down = (
        _interpolation(side, len(points), lattice_px) for side, points in ((box.width, columns), (box.height, rows))
    )
    return np.asarray(down @ known @ across.T)


def _interpolation(count: int, points: int, lattice_px: int) -> Floats:
    """Weights of lattice points for each pixel, count x points."""
    places = np.arange(count) / lattice_px
    return np.asarray(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(points))))


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
