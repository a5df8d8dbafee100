"""Does an alignment matrix find where the neighbouring section shows the same tissue? Measured where that is known."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from restain.alignment import expected_displacement
from restain.errors import ShapeError


@dataclass(frozen=True)
class Recovery:
    """How far regions end from where they belong, in px; one entry per region whose true place lies inside the tile."""

    aligned_px: Tensor
    """Distance between where the alignment sends a region and where the truth does."""
    identity_px: Tensor
    """The same for an alignment that leaves every region where it is: the length of the true displacement."""

    @property
    def median_px(self) -> tuple[float, float]:
        """Median distance of the alignment and of the identity; not a number without regions."""
        return self.aligned_px.median().item(), self.identity_px.median().item()


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
    if truth.ndim != 4 or truth.shape[:2] != (len(alignment), 2):
        raise ShapeError(
            f"expected displacements of {len(alignment)} × 2 × h × w, got {' × '.join(map(str, truth.shape))}"
        )
    found = expected_displacement(alignment, size_px)
    grid = found.shape[-1]
    truth = F.adaptive_avg_pool2d(truth.to(found), grid)
    centre = (torch.arange(grid, device=found.device) + 0.5) * (size_px / grid)
    place = torch.stack(torch.meshgrid(centre, centre, indexing="xy")) + truth
    inside = ((place >= 0) & (place <= size_px)).all(1)
    return Recovery((found - truth).norm(dim=1)[inside], truth.norm(dim=1)[inside])
