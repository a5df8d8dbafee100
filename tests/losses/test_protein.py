"""Focal optical density and its three levels, against slow definitions, known stains and limits."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import hed2rgb, rgb2hed
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from restain.errors import ShapeError
from restain.losses.protein import density_histogram, focal_density, protein_losses
from restain.randomness import generator
from restain.stains import STAIN_VECTORS, beer_lambert

SEEDS = st.integers(0, 10**6)
GREY = [0.2125, 0.7154, 0.0721]
BLACK = 10 ** -(math.e ** (1 / 1.8))


def dab(amount: Tensor) -> Tensor:
    """Light through so much DAB (N x 1 x H x W) and nothing else."""
    return beer_lambert(amount, STAIN_VECTORS[2:].to(amount))


def densities(seed: int, count: int = 2, size: int = 8) -> Tensor:
    """Focal densities of all strengths, some of them too weak to count."""
    drawn = torch.rand(count, 1, size, size, generator=generator(seed, "densities"), dtype=torch.float64)
    return drawn.square() * math.e


@given(SEEDS)
def test_focal_density_equals_scikit_images_separation(seed: int) -> None:
    rgb = torch.rand(1, 3, 5, 5, generator=generator(seed, "rgb"), dtype=torch.float64)
    hed = rgb2hed(rgb[0].permute(1, 2, 0).numpy())
    alone = hed2rgb(np.stack([np.zeros_like(hed[..., 0]), np.zeros_like(hed[..., 0]), hed[..., 2]], axis=-1))
    expected = np.maximum(-np.log10(alone @ GREY + BLACK), 0) ** 1.8
    assert_close(focal_density(rgb)[0, 0].numpy(), expected, atol=1e-9, rtol=1e-9)


def test_focal_density_of_known_stains() -> None:
    amounts = torch.tensor([0.0, 0.2, 1.0, 2.0], dtype=torch.float64).view(1, 1, 1, 4)
    found = focal_density(dab(amounts)).flatten()
    assert found[0] == 0  # white
    grey = GREY[0] * 10**-0.27 + GREY[1] * 10**-0.57 + GREY[2] * 10**-0.78
    assert float(found[2]) == pytest.approx((-math.log10(grey + BLACK)) ** 1.8)
    assert found[3] > 3 * found[2]  # twice the stain, more than three times the density: the focus
    haematoxylin = beer_lambert(torch.ones(1, 1, 1, 1, dtype=torch.float64), STAIN_VECTORS[:1])
    assert focal_density(haematoxylin) < 1e-9
    assert 2.5 < float(focal_density(dab(torch.full((1, 1, 1, 1), 7.0)))) < math.e  # next to black


def test_focal_density_makes_no_tensor_of_numbers_which_a_gpu_would_be_waited_for() -> None:
    operations = list[str]()

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operations.append(str(operation))
            return operation(*args, **(kwargs or {}))

    with Noted():
        focal_density(torch.rand(1, 3, 4, 4, generator=generator(0)))
    assert "aten.log10.default" in operations
    assert "aten.lift_fresh.default" not in operations


def test_an_image_of_the_networks_as_it_is_is_black_below_mid_grey() -> None:
    """What the published code measures: a faint stain counts as if it were ten times as strong."""
    faint = dab(torch.full((1, 1, 4, 4), 0.4))
    assert focal_density(faint).max() < 0.1
    assert focal_density(faint * 2 - 1).max() > 4 * focal_density(faint).max()
    dark = torch.full((1, 3, 4, 4), 0.49).mul(torch.tensor([1.0, 0.8, 0.2]).view(1, 3, 1, 1))
    assert_close(focal_density(dark * 2 - 1), focal_density(torch.zeros_like(dark)))


@pytest.mark.parametrize("level", [-1.0, -0.1, 0.0, 1e-12, 0.5, 1.0, 1.1])
def test_gradients_of_focal_density_are_finite(level: float) -> None:
    rgb = torch.full((1, 3, 4, 4), level, requires_grad=True)
    (focal_density(rgb).sum() + focal_density(rgb * torch.tensor([1.0, 0.6, 0.4]).view(1, 3, 1, 1)).sum()).backward()
    assert rgb.grad is not None
    assert rgb.grad.isfinite().all()


def histogram_by_loops(density: Tensor) -> Tensor:
    sums = torch.zeros(len(density), 20, dtype=torch.float64)
    for image, values in enumerate(density.flatten(1).tolist()):
        for value in values:
            sums[image, min(int(value / (math.e / 20)), 19)] += value
        sums[image] /= len(values)
    return sums


@given(SEEDS)
def test_the_histogram_by_its_definition(seed: int) -> None:
    density = densities(seed) * 1.1
    found = density_histogram(density)
    assert_close(found, histogram_by_loops(density))
    assert_close(found.sum(1), density.mean((1, 2, 3)))


def test_each_pixel_of_the_histogram_has_a_gradient() -> None:
    density = torch.tensor([0.052, 1.1, 0.0, 2.7]).view(1, 1, 2, 2).requires_grad_()
    (density_histogram(density) * torch.arange(20)).sum().backward()
    assert density.grad is not None
    assert density.grad.flatten().tolist() == [0, 8 / 4, 0, 19 / 4]  # the class, over the number of pixels


def levels_by_loops(virtual: Tensor, real: Tensor) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {"mean": [], "histogram": [], "blocks": []}
    for v, r in zip(virtual, real, strict=True):
        strong = [[value if value >= 0.15 else 0.0 for value in x.flatten().tolist()] for x in (v, r)]
        mean_v, mean_r = (sum(values) / len(values) for values in strong)
        found["mean"].append((mean_v - mean_r) ** 2 if abs(mean_v - mean_r) > 0.4 * mean_r else 0.0)
        histograms = [histogram_by_loops(x[None])[0].tolist() for x in (v, r)]
        found["histogram"].append(sum((a - b) ** 2 for a, b in zip(*histograms, strict=True)))
        side = v.shape[-1] // 4
        grids = [torch.tensor(values, dtype=torch.float64).view(v.shape[-2:]) for values in strong]
        differences = [
            float(grids[0][i : i + side, j : j + side].mean() - grids[1][i : i + side, j : j + side].mean()) ** 2
            for i in range(0, 4 * side, side)
            for j in range(0, 4 * side, side)
        ]
        found["blocks"].append(sum(differences) / len(differences))
    return found


@given(SEEDS, st.floats(0.2, 3))
def test_the_levels_by_their_definitions(seed: int, factor: float) -> None:
    virtual, real = factor * densities(seed), densities(seed + 1)
    expected = levels_by_loops(virtual, real)
    for name, losses in protein_losses(virtual, real).items():
        assert losses.tolist() == pytest.approx(expected[name])


def test_equal_expression_costs_nothing() -> None:
    density, nothing = densities(0), torch.zeros(2, 1, 8, 8)
    assert all((loss == 0).all() for loss in protein_losses(density, density).values())
    assert all((loss == 0).all() for loss in protein_losses(nothing, nothing).values())
    assert all((loss > 0).all() for loss in protein_losses(nothing.double(), density).values())


def test_the_mean_may_differ_by_forty_percent() -> None:
    density = densities(1) + 1  # all of it counts, also when it is scaled
    for factor, differs in ((1.39, False), (1.41, True), (0.61, False), (0.59, True)):
        assert ((protein_losses(factor * density, density)["mean"] > 0) == differs).all()


def test_no_gradient_goes_around_the_threshold() -> None:
    weak = torch.full((1, 1, 8, 8), 0.14, dtype=torch.float64, requires_grad=True)
    losses = protein_losses(weak, densities(0, 1))
    for name, losing in losses.items():
        (gradient,) = torch.autograd.grad(losing.sum(), weak, retain_graph=True)
        assert bool(gradient.any()) == (name == "histogram")


def test_mean_and_histogram_do_not_see_where_stain_lies() -> None:
    virtual, real = densities(2), densities(3)
    before, after = protein_losses(virtual, real), protein_losses(virtual.roll((3, 5), (2, 3)), real)
    assert_close(after["mean"], before["mean"])
    assert_close(after["histogram"], before["histogram"])
    assert (after["blocks"] != before["blocks"]).all()


def test_an_image_is_compared_with_its_own_neighbour() -> None:
    virtual, real = densities(4), densities(5)
    for name, losses in protein_losses(virtual, real).items():
        for image, loss in enumerate(losses):
            assert_close(protein_losses(virtual[[image]], real[[image]])[name][0], loss)


def test_shapes_must_agree() -> None:
    with pytest.raises(ShapeError, match="virtual 2 × 1 × 8 × 8, real 1 × 1 × 8 × 8"):
        protein_losses(densities(0), densities(0, count=1))
