"""Finds tiles that show the same tissue: perceptual hashes of landmarks propose, correlation of the overlap decides.

The hash of a whole tile finds only copies. Tiles that overlap share landmarks, so each landmark's surroundings are
hashed (signs of a cosine transform, as in pHash); two tiles with a similar landmark are superimposed at the shift that
it implies, and correlated where they overlap. All eight orientations are tried, because data sets may be augmented on
disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.fft import dctn
from torch import Tensor

THUMB_PX = 128
"""Longest side of the grey thumbnail for landmarks."""
LANDMARKS = 24
"""Landmarks per tile."""
PATCH_PX = 16
"""Side of the patch around a landmark."""
HASH_BITS = 63
"""Low frequencies of an 8 x 8 cosine transform without the mean."""
DIFFERENT_BITS = 8
"""Largest Hamming distance between hashes of the same landmark; by chance one pair in 2·10⁹ is closer."""
SMALLEST_OVERLAP = 0.1
"""Share of the smaller tile that must be shared."""
SAME_TISSUE = 0.9
"""Least correlation of the shared area for the same tissue."""
ORIENTATIONS = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))
"""Quarter turns, with and without mirroring; the first is the identity."""
_ROWS = 512


@dataclass(frozen=True)
class Overlap:
    """Two tiles that show the same tissue."""

    first: int
    second: int
    """Indices of the tiles, the first before the second."""
    share: float
    """Shared area, of the smaller tile's thumbnail."""
    correlation: float
    turned: bool
    """Whether one is rotated or mirrored relative to the other."""


def thumbnail(rgb: NDArray[np.uint8]) -> Tensor:
    """The grey thumbnail of a tile, H x W x 3 to h x w float32 in [0, 255]."""
    grey = torch.from_numpy(rgb.mean(axis=2, dtype=np.float32))
    factor = max(grey.shape) / THUMB_PX
    size = [max(1, round(side / factor)) for side in grey.shape]
    return F.interpolate(grey[None, None], size, mode="area")[0, 0]


def find_overlaps(thumbnails: Sequence[Tensor]) -> list[Overlap]:
    """Find all pairs of tiles that overlap, in order.

    Args:
        thumbnails: as `thumbnail` makes them, h x w each. Tiles must be of one magnification.
    """
    marks = _all_landmarks(thumbnails)
    best: dict[tuple[int, int], Overlap] = {}
    for turns, mirrored in ORIENTATIONS:
        turned = [torch.rot90(thumb.flip(1) if mirrored else thumb, turns).contiguous() for thumb in thumbnails]
        others = _all_landmarks(turned)
        for one, other in _candidates(marks, others):
            first, second = int(marks.owners[one]), int(others.owners[other])
            down, right = (others.places[other] - marks.places[one]).tolist()
            found = _compare(thumbnails[first], turned[second], down, right)
            known = best.get((first, second))
            if found and (known is None or found[1] > known.correlation):
                best[first, second] = Overlap(first, second, *found, turned=bool(turns or mirrored))
    return [best[pair] for pair in sorted(best) if best[pair].correlation > SAME_TISSUE]


@dataclass(frozen=True)
class _Landmarks:
    """Of all tiles, M."""

    owners: Tensor
    """The tile of each."""
    places: Tensor
    """As (y, x), M x 2."""
    hashes: Tensor
    """As -1 and 1, M x 63."""


def _all_landmarks(thumbnails: Sequence[Tensor]) -> _Landmarks:
    owners, places, hashes = [], [], []
    for index, thumb in enumerate(thumbnails):
        found = _landmarks(thumb)
        half = PATCH_PX // 2
        for y, x in found.tolist():
            patch = thumb[y - half : y + half, x - half : x + half].numpy()
            low = torch.from_numpy(dctn(patch, norm="ortho")[:8, :8].flatten()[1:].copy())
            hashes.append(torch.where(low > low.median(), 1.0, -1.0))
            owners.append(index)
            places.append(torch.tensor([y, x]))
    if not owners:
        return _Landmarks(
            torch.empty(0, dtype=torch.long), torch.empty(0, 2, dtype=torch.long), torch.empty(0, HASH_BITS)
        )
    return _Landmarks(torch.tensor(owners), torch.stack(places), torch.stack(hashes))


def _landmarks(thumb: Tensor) -> Tensor:
    """The strongest blobs of a thumbnail away from its border, as (y, x), at most `LANDMARKS` x 2."""
    half = PATCH_PX // 2
    if min(thumb.shape) <= 2 * PATCH_PX:
        return torch.empty(0, 2, dtype=torch.long)
    fine, coarse = (_mean(thumb, side) for side in (3, 7))
    strength = (fine - coarse).abs()
    peaks = (strength == F.max_pool2d(strength[None, None], 7, 1, 3)[0, 0]) & (strength > 2)
    peaks[:half], peaks[-half:], peaks[:, :half], peaks[:, -half:] = False, False, False, False
    found = peaks.nonzero()
    order = strength[found[:, 0], found[:, 1]].argsort(descending=True)
    return found[order[:LANDMARKS]]


def _mean(image: Tensor, side: int) -> Tensor:
    return F.avg_pool2d(image[None, None], side, 1, side // 2, count_include_pad=False)[0, 0]


def _candidates(marks: _Landmarks, others: _Landmarks) -> list[tuple[int, int]]:
    """Landmarks of different tiles with similar hashes, the earlier tile first, in blocks of rows."""
    alike = HASH_BITS - 2 * DIFFERENT_BITS
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(marks.owners), _ROWS):
        rows = slice(start, start + _ROWS)
        near = (marks.hashes[rows] @ others.hashes.mT >= alike) & (marks.owners[rows, None] < others.owners[None])
        pairs += [(start + row, column) for row, column in near.nonzero().tolist()]
    return pairs


def _compare(first: Tensor, second: Tensor, down: int, right: int) -> tuple[float, float] | None:
    """Shared area and correlation of first(p) and second(p + shift); None if too little is shared."""
    top, left = max(0, -down), max(0, -right)
    height = min(first.shape[0], second.shape[0] - down) - top
    width = min(first.shape[1], second.shape[1] - right) - left
    share = height * width / min(first.numel(), second.numel())
    if min(height, width) <= PATCH_PX or share < SMALLEST_OVERLAP:
        return None
    one = first[top : top + height, left : left + width]
    other = second[top + down : top + down + height, left + right : left + right + width]
    stacked = torch.stack([one.flatten(), other.flatten()])
    return share, torch.corrcoef(stacked)[0, 1].nan_to_num(0).item()
