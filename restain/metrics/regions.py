"""Positive regions found: glands or nests of stained epithelium as objects, instead of pixels.

Dice weighs area, so one large tumour hides many missed glands. Here each region counts once.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from restain.image import check_mpp
from restain.metrics.registry import Metric
from restain.metrics.structure import f1
from restain.stains import POSITIVE_DENSITY, dab_density

SMOOTH_UM = 2.0
"""Standard deviation of the Gaussian that closes gaps between stained cells."""
SMALLEST_UM2 = 400.0
"""Smaller regions, about two cells, are not counted."""
OVERLAP = 0.5
"""Two regions are the same if their intersection over union exceeds this; a region then has at most one partner."""

RegionMap = NDArray[np.int32]


def region_metrics(mpp: float) -> dict[str, Metric]:
    """F1 of the positive regions of all tiles together, for `evaluate`.

    Args:
        mpp: micrometres per pixel of the tiles.

    Raises:
        InputError: `mpp` is out of range.
    """
    check_mpp(mpp)
    protocol: dict[str, str | float] = {
        "stains": "Ruifrok & Johnston",
        "positive above": POSITIVE_DENSITY,
        "mpp": mpp,
        "smoothed": f"sigma {SMOOTH_UM:g} µm, holes filled",
        "regions": f"at least {SMALLEST_UM2:g} µm²",
        "same": f"IoU above {OVERLAP:g}",
    }
    columns = ("regions_shared", "regions_virtual", "regions_real")
    return {"regions_f1": Metric("Positive regions, F1", partial(_measure, mpp), columns, f1, protocol=protocol)}


def positive_regions(density: NDArray[np.float32], mpp: float) -> RegionMap:
    """Label the stained regions of an image: smoothed, thresholded, holes filled, small ones dropped.

    Args:
        density: optical density of DAB, H x W.
        mpp: micrometres per pixel.

    Returns:
        0 outside, 1 to n inside, H x W; regions that touch by a side or a corner are one.
    """
    smooth = ndimage.gaussian_filter(density, SMOOTH_UM / mpp)
    labels, count = ndimage.label(ndimage.binary_fill_holes(smooth > POSITIVE_DENSITY), np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1) * mpp**2
    large = (areas >= SMALLEST_UM2) & (np.arange(count + 1) > 0)
    numbers = np.where(large, np.cumsum(large), 0)
    found: RegionMap = numbers[labels].astype(np.int32)
    return found


def shared_regions(first: RegionMap, second: RegionMap) -> int:
    """Count the regions that two labelled images of one size share, by intersection over union."""
    rows, columns = int(first.max()) + 1, int(second.max()) + 1
    both = np.bincount(first.ravel() * columns + second.ravel(), minlength=rows * columns).reshape(rows, columns)
    union = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    return int((both[1:, 1:] > OVERLAP * union[1:, 1:]).sum())


def _measure(mpp: float, virtual: Tensor, real: Tensor) -> Tensor:
    """Regions in both, in virtual and in real tiles, N x 3."""
    densities = [dab_density(images)[:, 0].float().cpu().numpy() for images in (virtual, real)]
    rows = []
    for pair in zip(*densities, strict=True):
        ours, theirs = (positive_regions(density, mpp) for density in pair)
        rows.append([shared_regions(ours, theirs), int(ours.max()), int(theirs.max())])
    return torch.tensor(rows, dtype=torch.float64)
