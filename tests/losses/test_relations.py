"""Likeness among images and transport between places: definitions, marginals, limits, gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.losses.relations import correlation_loss, image_similarity, transport_loss, transport_plan
from restain.randomness import generator

SEEDS = st.integers(0, 10**6)


def vectors(seed: int, images: int = 3, places: int = 6) -> Tensor:
    drawn = torch.randn(images, places, 4, generator=generator(seed, "vectors"), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


@given(SEEDS)
@settings(max_examples=15)
def test_the_correlation_loss_by_its_definition(seed: int) -> None:
    virtual, real = vectors(seed).requires_grad_(), vectors(seed + 1)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            cosines = [
                (side[i] * side[j]).sum() / ((side[i] ** 2).sum().sqrt() * (side[j] ** 2).sum().sqrt())
                for side in (virtual, real)
            ]
            total = total + (cosines[0] - cosines[1]).abs()
    assert_close(correlation_loss(virtual, real), total / 9)
    (found,) = torch.autograd.grad(correlation_loss(virtual, real), virtual)
    (expected,) = torch.autograd.grad(total / 9, virtual)
    assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_the_correlation_loss_sees_relations_alone() -> None:
    real = vectors(0)
    assert correlation_loss(real, real) < 1e-12
    turned = real @ torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert correlation_loss(turned, real) < 1e-12  # every feature another one, the likenesses as before
    assert correlation_loss(real[:1].expand(3, -1, -1), real) > 0.1  # all images stained alike
    assert_close(image_similarity(real).diagonal(), torch.ones(3, dtype=torch.float64))


def test_one_image_has_no_correlation() -> None:
    with pytest.raises(ShapeError, match="a batch of at least 2, but it has 1; raise batch_size"):
        correlation_loss(vectors(0, images=1), vectors(1, images=1))


def plan_by_loops(first: Tensor, second: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Of one image, P x C each; number by number, so that autograd gives a gradient to compare with."""
    places = range(len(first))
    kernel = [
        [torch.exp((torch.tensor(-10.0) if i == j else 1 - (first[i] * second[j]).sum()) / epsilon) for j in places]
        for i in places
    ]
    columns = [torch.ones((), dtype=torch.float64) for _ in places]
    rows = columns
    for _ in range(iterations):
        rows = [1 / sum((kernel[i][j] * columns[j] for j in places), torch.zeros(())) for i in places]
        columns = [1 / sum((kernel[i][j] * rows[i] for i in places), torch.zeros(())) for j in places]
    return torch.stack([torch.stack([rows[i] * kernel[i][j] * columns[j] for j in places]) for i in places])


@given(SEEDS, st.floats(0.3, 3), st.integers(1, 3))
@settings(max_examples=15)
def test_transport_and_its_gradient_by_definition(seed: int, epsilon: float, iterations: int) -> None:
    source, target = (vectors(seed + draw, images=2, places=4) for draw in (0, 1))
    virtual = vectors(seed + 2, images=2, places=4).requires_grad_()
    losses = []
    for x, y, v in zip(source, target, virtual, strict=True):
        expected, found = plan_by_loops(x, y, epsilon, iterations), plan_by_loops(y, v, epsilon, iterations)
        losses.append(
            sum((abs(found[i, j] - expected[i, j]) for i in range(4) for j in range(4)), torch.zeros(())) / 16
        )
    by_hand = sum(losses, torch.zeros(())) / 2
    loss = transport_loss(virtual, source, target, epsilon, iterations)
    assert_close(loss, by_hand)
    assert_close(torch.autograd.grad(loss, virtual)[0], torch.autograd.grad(by_hand, virtual)[0])


@given(SEEDS, st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=30)
def test_every_place_sends_and_receives_one(seed: int, epsilon: float) -> None:
    plan = transport_plan(vectors(seed), vectors(seed + 1), epsilon, iterations=500)
    assert (plan >= 0).all()
    assert_close(plan.sum(1), torch.ones(3, 6).double())
    assert_close(plan.sum(2), torch.ones(3, 6).double(), atol=1e-2, rtol=0)


def test_limits_of_the_plan() -> None:
    first, second = vectors(2), vectors(3)
    assert_close(transport_plan(first, second, epsilon=1e6), torch.full((3, 6, 6), 1 / 6).double(), atol=1e-5, rtol=0)
    unlike = 1 - first[0] @ second[0].T
    unlike.fill_diagonal_(-10)
    rows, columns = linear_sum_assignment(unlike.numpy(), maximize=True)
    best = float(unlike[rows, columns].sum())
    sharp = float((transport_plan(first, second, epsilon=0.05, iterations=3000)[0] * unlike).sum())
    assert best - 0.1 < sharp <= best + 1e-6, "a sharp plan matches the most unlike places, each with another"
    assert_close(transport_plan(first, second, 1.0, 200).mT, transport_plan(second, first, 1.0, 200))


def test_rows_and_columns_are_scaled_and_nothing_else() -> None:
    """Cross ratios of a plan are those of its kernel, whatever the scaling."""
    first, second = vectors(4)[:1], vectors(5)[:1]
    unlike = 1 - first[0] @ second[0].T
    unlike.fill_diagonal_(-10)
    plan = transport_plan(first, second, 0.5)[0].log()
    for i, j, k, m in ((0, 1, 2, 3), (0, 0, 1, 5), (4, 4, 3, 2)):
        assert_close(
            plan[i, j] + plan[k, m] - plan[i, m] - plan[k, j],
            (unlike[i, j] + unlike[k, m] - unlike[i, m] - unlike[k, j]) / 0.5,
        )


@given(SEEDS)
def test_transport_that_is_the_same_costs_nothing(seed: int) -> None:
    source, target = vectors(seed), vectors(seed + 1)
    assert transport_loss(source, source, source) == 0
    difference = transport_plan(target, source) - transport_plan(source, target)
    assert_close(transport_loss(source, source, target), difference.abs().mean())


@pytest.mark.parametrize("kind", ["random", "equal", "opposite", "zero"])
@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_gradients_are_finite_and_the_virtual_sides_alone(kind: str, epsilon: float) -> None:
    source, target = vectors(0).float().requires_grad_(), vectors(1).float().requires_grad_()
    start = {"random": vectors(2), "equal": target, "opposite": -target, "zero": torch.zeros(3, 6, 4)}[kind]
    virtual = start.detach().float().clone().requires_grad_()
    (transport_loss(virtual, source, target, epsilon) + correlation_loss(virtual, target)).backward()
    assert virtual.grad is not None
    assert virtual.grad.isfinite().all()
    assert source.grad is None
    assert target.grad is None


def test_transport_of_a_batch_is_the_mean_of_its_images() -> None:
    virtual, source, target = vectors(0), vectors(1), vectors(2)
    alone = [transport_loss(virtual[[image]], source[[image]], target[[image]]) for image in range(3)]
    assert_close(transport_loss(virtual, source, target), torch.stack(alone).mean())
    with pytest.raises(ShapeError, match="same shape"):
        transport_loss(virtual, source, target[:, :4])
