"""Preservation of structure: haematoxylin and nuclei of the virtual stain, compared with its H&E.

H&E and virtual IHC show the same section, so this needs no real IHC.
"""

import numpy as np
from scipy.spatial import KDTree
from torch import Tensor

from restain.quantify.cells import Cells
from restain.stains import rgb_to_hed
from restain.tensors import same_shape


def haematoxylin_correlation(virtual: Tensor, he: Tensor) -> Tensor:
    """Pearson correlation of the haematoxylin of all pixels.

    Args:
        virtual: virtual IHC, N x 3 x H x W in [0, 1].
        he: the H&E it was made from, same shape.

    Returns:
        One value in [-1, 1] per tile, N; NaN if either side is constant.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, he=he)
    first, second = (rgb_to_hed(images)[:, 0].flatten(1) for images in (virtual, he))
    first, second = (amounts - amounts[:, :1] for amounts in (first, second))  # a constant becomes exactly 0
    first, second = (amounts - amounts.mean(1, keepdim=True) for amounts in (first, second))
    return (first * second).sum(1) / (first.square().sum(1) * second.square().sum(1)).sqrt()


def matched_nuclei(first: Cells, second: Cells, within_px: float) -> int:
    """Count nuclei common to both images: mutual nearest neighbours at most `within_px` apart."""
    if not len(first) or not len(second):
        return 0
    here, there = (np.stack([cells.x, cells.y], 1) for cells in (first, second))
    distance, partner = KDTree(there).query(here)
    _, back = KDTree(here).query(there)
    mutual = back[partner] == np.arange(len(first))
    return int((mutual & (distance <= within_px)).sum())


def f1(matched: Tensor, virtual: Tensor, partner: Tensor) -> Tensor:
    """F1 of the objects of all tiles together, in [0, 1]; N each to a scalar, NaN without objects."""
    return 2 * matched.sum() / (virtual.sum() + partner.sum())
