"""Error of an alignment matrix where the displacement of the neighbouring section is known."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restain.alignment import expected_displacement
from restain.errors import ShapeError


@dataclass(frozen=True)
class Recovery:
    """Displacements of regions by an alignment and in truth, (dx, dy) in px."""

    found: Tensor
    """B x 2 x h x w: displacement by the alignment."""
    truth: Tensor
    """B x 2 x h x w: true displacement of the tissue."""
    inside: Tensor
    """B x h x w, whether the true position is inside the tile; other regions are ignored."""

    @property
    def aligned_px(self) -> Tensor:
        """Distance between the positions by the alignment and in truth, one entry per region inside."""
        distances: Tensor = torch.linalg.vector_norm(self.found - self.truth, dim=1)
        return distances[self.inside]

    @property
    def identity_px(self) -> Tensor:
        """The same for the identity, which is the length of the true displacement."""
        lengths: Tensor = torch.linalg.vector_norm(self.truth, dim=1)
        return lengths[self.inside]


def recovery(alignment: Tensor, truth: Tensor, size_px: float) -> Recovery:
    """Compare an alignment with a known displacement.

    Args:
        alignment: weights, B x N x N, rows sum to 1. Row = virtual region (coordinates of the H&E), column = real
            region (coordinates of the displaced section).
        truth: (dx, dy) in px on any grid over the tile, B x 2 x h x w, with aligned(p) = displaced(p + d(p)). The truth
            of a region is the mean over it.
        size_px: side of the square tile.

    Raises:
        ShapeError: the batches differ, or the truth is not B x 2 x h x w.
    """
    batch = len(alignment)
    if truth.ndim != 4 or truth.shape[:2] != (batch, 2):
        raise ShapeError(f"expected displacements of {batch} × 2 × h × w, got {' × '.join(map(str, truth.shape))}")
    found = expected_displacement(alignment, size_px)
    grid = found.shape[-1]
    truth = F.adaptive_avg_pool2d(truth.to(found), grid)
    centre = (torch.arange(grid, device=found.device) + 0.5) * (size_px / grid)
    place = torch.stack(torch.meshgrid(centre, centre, indexing="xy")) + truth
    return Recovery(found, truth, ((place >= 0) & (place <= size_px)).all(1))
