"""Distance in optical density: its definition by loops, its limits, and which answer it asks for in doubt."""

import math

import pytest
import torch
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.losses.density import density_loss
from restain.losses.distance import l1_loss
from restain.randomness import generator


def test_by_loops() -> None:
    draws = generator(0, "density")
    virtual, real = (torch.rand(2, 3, 3, 4, generator=draws, dtype=torch.float64) * 2 - 1 for _ in range(2))
    virtual[0, 0, 0, 0] = -1.0  # black
    total = 0.0
    for v, r in zip(virtual.flatten().tolist(), real.flatten().tolist(), strict=True):
        difference = -math.log10(max((v + 1) / 2, 1 / 255)) + math.log10(max((r + 1) / 2, 1 / 255))
        total += difference**2 / virtual.numel()
    assert_close(density_loss(virtual, real).item(), total)
    assert_close(density_loss(real, virtual), density_loss(virtual, real))
    assert density_loss(real, real) == 0


def test_twice_the_stain_is_four_times_as_far_from_none() -> None:
    white = torch.ones(1, 3, 2, 2)
    once, twice = (torch.full((1, 3, 2, 2), 2 * 10**-density - 1) for density in (0.3, 0.6))
    assert_close(density_loss(twice, white), 4 * density_loss(once, white))


def test_black_has_a_finite_gradient() -> None:
    virtual = torch.full((1, 3, 2, 2), -1.0, requires_grad=True)
    density_loss(virtual, torch.zeros(1, 3, 2, 2)).backward()
    assert virtual.grad is not None
    assert virtual.grad.isfinite().all()


def test_in_doubt_it_asks_for_the_mean_amount_where_l1_asks_for_none() -> None:
    """Two places of five carry stain, and nothing tells which: one answer for all of them."""
    density = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5], dtype=torch.float64).view(5, 1, 1, 1).expand(5, 3, 1, 1)
    real = 2 * 10**-density - 1
    answers = torch.linspace(0, 0.6, 61, dtype=torch.float64)
    best = {}
    for loss in (density_loss, l1_loss):
        values = [loss((2 * 10**-answer - 1).expand_as(real), real) for answer in answers]
        best[loss] = answers[int(torch.stack(values).argmin())].item()
    assert best[density_loss] == pytest.approx(0.2)
    assert best[l1_loss] == 0.0


def test_images_of_another_shape_are_refused() -> None:
    with pytest.raises(ShapeError, match="same shape"):
        density_loss(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
