"""Visibility of tile borders: the step across them, relative to steps inside tiles."""

from functools import partial

import torch
from torch import Tensor

from restain.errors import ShapeError
from restain.metrics.registry import Metric


def seams(images: Tensor, tile_px: int) -> Tensor:
    """Mismatch of neighbouring tiles.

    The mean absolute difference between the two pixels on either side of each border of the grid, divided by the same
    between neighbouring pixels halfway between the borders, where an untiled image is equally rough. 1 means that
    borders are indistinguishable from other places; compare with the value of the untiled image.

    Args:
        images: N x C x H x W, any range.
        tile_px: side of the tiles, whose grid starts at the upper left corner.

    Returns:
        One value per image, N; NaN for an image without detail.

    Raises:
        ShapeError: the image has no border, or the tile is smaller than 4 px.
    """
    height, width = images.shape[-2:]
    if tile_px < 4 or max(height, width) <= tile_px:
        raise ShapeError(f"an image of {width} × {height} px has no borders between tiles of {tile_px} px")
    steps = [images.diff(dim=dim).abs().movedim(dim, -1) for dim in (-2, -1)]
    borders, middles = (
        torch.cat([step[..., start::tile_px].flatten(1) for step in steps], dim=1).mean(1)
        for start in (tile_px - 1, tile_px // 2 - 1)
    )
    return borders / middles


def seam_metrics(tile_px: int) -> dict[str, Metric]:
    """Seams of the virtual images as a metric of `evaluate`, for images larger than a tile.

    Args:
        tile_px: side of the tiles that they were stained in, at least 4.
    """
    label = f"Seams at borders of tiles of {tile_px} px: virtual (1 = none)"
    metric = Metric(
        label,
        partial(_virtual_seams, tile_px=tile_px),
        ("seams_virtual",),
        Tensor.nanmean,
        higher_is_better=False,
        protocol={"tile": f"{tile_px} px"},
        smallest_px=tile_px + 1,
    )
    return {"seams": metric}


def _virtual_seams(virtual: Tensor, partner: Tensor, tile_px: int) -> Tensor:
    del partner
    return seams(virtual, tile_px)
