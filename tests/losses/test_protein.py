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
from restain.losses.protein import density_histogram, focal_density, protein_losses, relative_difference
from restain.randomness import generator
from restain.stains import STAIN_VECTORS, beer_lambert

SEEDS = st.integers(0, 10**6)


def dab(amount: Tensor) -> Tensor:
    """Light through so much DAB (N x 1 x H x W) and nothing else."""
    return beer_lambert(amount, STAIN_VECTORS[2:].to(amount))


def densities(seed: int, count: int = 2, size: int = 8) -> Tensor:
    """Focal densities, some of them 0."""
    drawn = torch.rand(count, 1, size, size, generator=generator(seed, "densities"), dtype=torch.float64)
    return (0.4 * drawn - 0.1).clamp_min(0)


@given(SEEDS)
def test_focal_density_equals_scikit_images_separation(seed: int) -> None:
    rgb = torch.rand(1, 3, 5, 5, generator=generator(seed, "rgb"), dtype=torch.float64) * 0.98 + 0.02
    hed = rgb2hed(rgb[0].permute(1, 2, 0).numpy())
    alone = hed2rgb(np.stack([np.zeros_like(hed[..., 0]), np.zeros_like(hed[..., 0]), hed[..., 2]], axis=-1))
    density = np.log10(1 / np.maximum(alone @ [0.299, 0.587, 0.114], 1e-6))
    expected = np.where(density < 0.15, 0, np.maximum(density, 0) ** 1.8)
    near = np.abs(density - 0.15) < 1e-6
    assert_close(focal_density(rgb)[0, 0].numpy()[~near], expected[~near], atol=1e-6, rtol=1e-6)


def test_focal_density_of_known_stains() -> None:
    amounts = torch.tensor([0.0, 0.2, 1.0, 2.0]).view(1, 1, 1, 4)
    found = focal_density(dab(amounts)).flatten()
    assert found[0] == found[1] == 0  # white, and too little
    grey = 0.299 * 10**-0.27 + 0.587 * 10**-0.57 + 0.114 * 10**-0.78
    assert float(found[2]) == pytest.approx((-math.log10(grey)) ** 1.8, rel=1e-5)
    assert found[3] > 3 * found[2]  # twice the stain, more than three times the density: the focus
    haematoxylin = beer_lambert(torch.ones(1, 1, 1, 1), STAIN_VECTORS[:1].float())
    assert focal_density(haematoxylin) == 0


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


def test_images_of_networks_must_be_brought_to_the_unit_range_first() -> None:
    weak = dab(torch.full((1, 1, 4, 4), 0.4))
    assert focal_density(weak).max() < 0.1
    assert focal_density(weak * 2 - 1).max() > 4 * focal_density(weak).max()  # what the mistake would give


@pytest.mark.parametrize("level", [-0.1, 0.0, 1e-12, 0.5, 1.0, 1.1])
def test_gradients_of_focal_density_are_finite(level: float) -> None:
    rgb = torch.full((1, 3, 4, 4), level, requires_grad=True)
    (focal_density(rgb).sum() + focal_density(rgb * torch.tensor([1.0, 0.6, 0.4]).view(1, 3, 1, 1)).sum()).backward()
    assert rgb.grad is not None
    assert rgb.grad.isfinite().all()
    assert rgb.grad.abs().max() < 1e4


@pytest.mark.parametrize("amount", [0.2, 1.0])
def test_more_blue_light_is_less_density_also_where_it_does_not_count_yet(amount: float) -> None:
    rgb = dab(torch.full((1, 1, 1, 1), amount)).requires_grad_()
    density = focal_density(rgb)
    density.sum().backward()
    assert (density > 0) == (amount == 1.0)
    assert rgb.grad is not None
    assert rgb.grad[0, 2] < 0  # blue, which DAB absorbs most


@pytest.mark.parametrize("virtual", [dab(torch.full((1, 1, 8, 8), 0.2)), torch.full((1, 3, 8, 8), 0.95)])
def test_a_virtual_ihc_with_too_little_stain_to_count_learns_to_have_more(virtual: Tensor) -> None:
    assert not focal_density(virtual).any()
    assert (pull(virtual)[0, 2] > 0).all()  # less blue light, more DAB


@pytest.mark.parametrize("amounts", [(0.0, 0.0), (0.5, 0.0)])
def test_a_virtual_ihc_without_any_dab_is_not_told_to_have_some(amounts: tuple[float, float]) -> None:
    """White, and pure haematoxylin."""
    densities = torch.tensor(amounts).view(1, 2, 1, 1).expand(-1, -1, 8, 8)
    assert not pull(beer_lambert(densities, STAIN_VECTORS[[0, 2]].float())).any()


def pull(virtual: Tensor) -> Tensor:
    """Gradient of the three levels towards a stained neighbour."""
    light, real = virtual.clone().requires_grad_(), dab(torch.ones(1, 1, 8, 8))
    torch.stack([*protein_losses(focal_density(light), focal_density(real)).values()]).sum().backward()
    assert light.grad is not None
    return light.grad


def histogram_by_loops(density: Tensor) -> Tensor:
    counts = torch.zeros(len(density), 20, dtype=torch.float64)
    centres = [(index + 0.5) * 0.25 / 20 for index in range(20)]
    for image, values in enumerate(density.flatten(1).tolist()):
        for value in values:
            if value == 0:
                continue
            if value <= centres[0] or value >= centres[-1]:
                counts[image, 0 if value <= centres[0] else 19] += 1
                continue
            lower = max(index for index in range(19) if centres[index] <= value)
            share = (value - centres[lower]) / (centres[1] - centres[0])
            counts[image, lower] += 1 - share
            counts[image, lower + 1] += share
        counts[image] /= len(values)
    return counts


@given(SEEDS)
def test_the_histogram_by_its_definition(seed: int) -> None:
    density = densities(seed)
    found = density_histogram(density)
    assert_close(found, histogram_by_loops(density))
    assert_close(found.sum(1), (density > 0).double().mean((1, 2, 3)))


def test_the_histogram_has_a_gradient() -> None:
    density = torch.tensor([0.052, 0.11, 0.0, 0.5]).view(1, 1, 2, 2).requires_grad_()
    wanted = torch.zeros(1, 20)
    wanted[0, 12] = 1
    relative_difference(density_histogram(density), wanted).sum().backward()
    assert density.grad is not None
    assert density.grad.isfinite().all()
    # neither a pixel without stain nor one past the top can change its class
    assert (density.grad.flatten() != 0).tolist() == [True, True, False, False]


def levels_by_loops(virtual: Tensor, real: Tensor) -> dict[str, float]:
    def relative(a: list[float], b: list[float]) -> float:
        squares = sum(x * x for x in a) + sum(y * y for y in b)
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / (squares + 1e-8)

    sums = dict.fromkeys(("mean", "histogram", "blocks"), 0.0)
    for v, r in zip(virtual, real, strict=True):
        mean_v, mean_r = float(v.mean()), float(r.mean())
        if abs(mean_v - mean_r) > 0.4 * mean_r:
            sums["mean"] += relative([mean_v], [mean_r])
        histograms = [histogram_by_loops(x[None])[0].tolist() for x in (v, r)]
        sums["histogram"] += relative(*histograms)
        side = v.shape[-1] // 4
        blocks = [
            [
                float(x[0, i * side : (i + 1) * side, j * side : (j + 1) * side].mean())
                for i in range(4)
                for j in range(4)
            ]
            for x in (v, r)
        ]
        sums["blocks"] += relative(*blocks)
    return {name: value / len(virtual) for name, value in sums.items()}


@given(SEEDS, st.floats(0.2, 3))
def test_the_levels_by_their_definitions(seed: int, factor: float) -> None:
    virtual, real = factor * densities(seed), densities(seed + 1)
    found = {name: float(loss) for name, loss in protein_losses(virtual, real).items()}
    assert found == pytest.approx(levels_by_loops(virtual, real))
    assert all(0 <= loss <= 1 for loss in found.values())


def test_equal_expression_costs_nothing_and_absent_stain_all() -> None:
    density = densities(0)
    assert all(loss == 0 for loss in protein_losses(density, density).values())
    assert all(loss > 0.99 for loss in protein_losses(torch.zeros_like(density), density).values())
    assert all(loss == 0 for loss in protein_losses(torch.zeros_like(density), torch.zeros_like(density)).values())


def test_the_mean_may_differ_by_forty_percent() -> None:
    density = densities(1)
    assert protein_losses(1.39 * density, density)["mean"] == 0
    assert protein_losses(1.41 * density, density)["mean"] > 0
    assert protein_losses(0.61 * density, density)["mean"] == 0
    assert protein_losses(0.59 * density, density)["mean"] > 0


def test_mean_and_histogram_do_not_see_where_stain_lies() -> None:
    virtual, real = densities(2), densities(3)
    moved = virtual.roll((3, 5), (2, 3))
    before, after = protein_losses(virtual, real), protein_losses(moved, real)
    assert_close(after["mean"], before["mean"])
    assert_close(after["histogram"], before["histogram"])
    assert after["blocks"] != before["blocks"]


def test_a_batch_is_the_mean_of_its_images() -> None:
    virtual, real = densities(4), densities(5)
    alone = [protein_losses(virtual[[image]], real[[image]]) for image in range(2)]
    for name, loss in protein_losses(virtual, real).items():
        assert_close(loss, (alone[0][name] + alone[1][name]) / 2)


def test_shapes_must_agree() -> None:
    with pytest.raises(ShapeError, match="virtual 2 × 1 × 8 × 8, real 1 × 1 × 8 × 8"):
        protein_losses(densities(0), densities(0, count=1))
