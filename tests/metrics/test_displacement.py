"""An alignment that knows the way is at distance 0; the identity is as far off as the tissue moved."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from restain.alignment import identity_alignment, rearrange
from restain.errors import ShapeError
from restain.metrics.displacement import recovery

GRID, SIZE_PX = 4, 64


def shift_alignment(right: int, down: int) -> Tensor:
    """Each virtual region takes the real region `right` columns and `down` rows further, the last ones stay inside."""
    alignment = torch.zeros(1, GRID**2, GRID**2)
    for row in range(GRID):
        for column in range(GRID):
            source = min(row + down, GRID - 1) * GRID + min(column + right, GRID - 1)
            alignment[0, row * GRID + column, source] = 1
    return alignment


def uniform(dx: float, dy: float) -> Tensor:
    return torch.tensor([dx, dy]).view(1, 2, 1, 1).expand(1, 2, 8, 8)


def test_the_true_shift_is_found_and_the_identity_misses_by_its_length() -> None:
    found = recovery(shift_alignment(1, 2), uniform(16, 32), SIZE_PX)
    assert found.aligned_px.max() == 0
    assert_close(found.identity_px, torch.full((6,), math.hypot(16, 32)))
    assert len(found.aligned_px) == 3 * 2, "regions whose partner lies outside the tile do not count"


def test_signs_and_axes_follow_the_data_sets_convention() -> None:
    """aligned(p) = displaced(p + d(p)): rearranging the displaced image by the true alignment gives the aligned one."""
    displaced = torch.arange(64.0).view(1, 1, 8, 8)
    aligned = displaced.roll((-2, -4), (-2, -1))  # content two rows further down, four columns further right
    alignment = shift_alignment(2, 1)
    assert_close(rearrange(alignment, displaced)[..., :6, :4], aligned[..., :6, :4])
    pixel = SIZE_PX / 8
    assert recovery(alignment, uniform(4 * pixel, 2 * pixel), SIZE_PX).aligned_px.max() == 0
    assert recovery(alignment, uniform(2 * pixel, 4 * pixel), SIZE_PX).aligned_px.min() > 0


def test_the_identity_equals_the_identity() -> None:
    truth = torch.randn(3, 2, 64, 64, generator=torch.Generator().manual_seed(0)).half() * 8
    found = recovery(identity_alignment(3, GRID**2, like=torch.empty(0)), truth, SIZE_PX)
    assert_close(found.aligned_px, found.identity_px)


def test_a_region_has_the_mean_displacement_over_it() -> None:
    truth = torch.zeros(1, 2, 8, 8)
    truth[:, 0, :2, :2] = torch.tensor([[0.0, 4.0], [8.0, 4.0]])
    found = recovery(identity_alignment(1, GRID**2, like=truth), truth, SIZE_PX)
    assert found.identity_px.tolist() == [4] + [0] * 15


def test_weights_over_several_regions_send_to_their_mean_place() -> None:
    alignment = (shift_alignment(1, 0) + shift_alignment(3, 0)) / 2
    found = recovery(alignment, uniform(32, 0), SIZE_PX)
    assert_close(found.aligned_px.view(GRID, 2)[:, 0], torch.zeros(GRID))


def test_truths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="expected displacements of 1 × 2 × h × w, got 2 × 2 × 4 × 4"):
        recovery(shift_alignment(0, 0), torch.zeros(2, 2, 4, 4), SIZE_PX)
