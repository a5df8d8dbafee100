"""Likeness among images and transport between places: definitions, marginals, limits, gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from restain.alignment import sinkhorn_alignment
from restain.errors import ShapeError
from restain.losses.relations import correlation_loss, image_similarity, transport_loss, transport_plan
from restain.randomness import generator

SEEDS = st.integers(0, 10**6)


def vectors(seed: int, images: int = 3, places: int = 6) -> Tensor:
    drawn = torch.randn(images, places, 4, generator=generator(seed, "vectors"), dtype=torch.float64)
    return F.normalize(drawn, dim=-1)


@given(SEEDS)
def test_the_correlation_loss_by_its_definition(seed: int) -> None:
    virtual, source = vectors(seed), vectors(seed + 1)
    total = 0.0
    for i in range(3):
        for j in range(3):
            before = F.cosine_similarity(source[i].flatten(), source[j].flatten(), dim=0)
            after = F.cosine_similarity(virtual[i].flatten(), virtual[j].flatten(), dim=0)
            total += float((after - before).abs())
    assert float(correlation_loss(virtual, source)) == pytest.approx(total / 9)


def test_the_correlation_loss_sees_relations_alone() -> None:
    source = vectors(0)
    assert correlation_loss(source, source) < 1e-12
    turned = source @ torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert correlation_loss(turned, source) < 1e-12  # every feature another one, the likenesses as before
    assert correlation_loss(source[:1].expand(3, -1, -1), source) > 0.1  # all images stained alike
    assert_close(image_similarity(source).diagonal(), torch.ones(3, dtype=torch.float64))


def test_one_image_has_no_correlation() -> None:
    with pytest.raises(ShapeError, match="a batch of at least 2, but it holds 1; raise batch_size"):
        correlation_loss(vectors(0, images=1), vectors(1, images=1))


def plan_by_loops(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    kernel = (-cost / epsilon).exp()
    rows, columns = torch.ones(len(cost)).double(), torch.ones(cost.shape[1]).double()
    for _ in range(iterations):
        for i in range(len(rows)):
            rows[i] = 1 / len(rows) / sum(float(kernel[i, j] * columns[j]) for j in range(len(columns)))
        for j in range(len(columns)):
            columns[j] = 1 / len(columns) / sum(float(kernel[i, j] * rows[i]) for i in range(len(rows)))
    return torch.tensor(
        [[float(rows[i] * kernel[i, j] * columns[j]) for j in range(len(columns))] for i in range(len(rows))]
    ).double()


@given(SEEDS, st.floats(0.3, 3), st.integers(1, 4))
def test_the_plan_by_its_definition(seed: int, epsilon: float, iterations: int) -> None:
    first, second = vectors(seed, images=1), vectors(seed + 1, images=1, places=4)
    expected = plan_by_loops(1 - first[0] @ second[0].T, epsilon, iterations)
    assert_close(transport_plan(first, second, epsilon, iterations)[0], expected)


@given(SEEDS, st.sampled_from([0.1, 1.0, 10.0]))
def test_the_plan_moves_all_mass_and_no_more(seed: int, epsilon: float) -> None:
    plan = transport_plan(vectors(seed), vectors(seed + 1, places=5), epsilon, iterations=500)
    assert (plan >= 0).all()
    assert_close(plan.sum(1), torch.full((3, 5), 1 / 5).double())
    assert_close(plan.sum(2), torch.full((3, 6), 1 / 6).double(), atol=1e-3, rtol=0)


def test_the_plan_equals_the_one_in_logarithms() -> None:
    first, second = vectors(0, places=9), vectors(1, places=9)
    in_logarithms = sinkhorn_alignment(first.mT.reshape(3, 4, 3, 3), second.mT.reshape(3, 4, 3, 3), 0.5, 50)
    assert_close(9 * transport_plan(first, second, 0.5, 50), in_logarithms, atol=1e-9, rtol=1e-6)


def test_limits_of_the_plan() -> None:
    first, second = vectors(2), vectors(3)
    assert_close(transport_plan(first, second, epsilon=1e6), torch.full((3, 6, 6), 1 / 36).double(), atol=1e-6, rtol=0)
    cost = (1 - first[0] @ second[0].T).flatten().numpy()
    ones = torch.ones(6).double()
    marginals = torch.cat(
        [torch.kron(torch.eye(6).double(), ones[None]), torch.kron(ones[None], torch.eye(6).double())]
    )
    exact = linprog(cost, A_eq=marginals.numpy(), b_eq=[1 / 6] * 12).fun
    sharp = transport_plan(first, second, epsilon=0.05, iterations=3000)[0].flatten().numpy() @ cost
    assert exact - 1e-9 <= sharp < exact + 0.05
    assert_close(transport_plan(first, second, 1.0, 200).mT, transport_plan(second, first, 1.0, 200))


@given(SEEDS)
def test_transport_as_from_the_source_costs_nothing(seed: int) -> None:
    source, target = vectors(seed), vectors(seed + 1, places=4)
    assert transport_loss(source, source, target) == 0
    order = torch.randperm(6, generator=generator(seed, "order"))
    assert transport_loss(source[:, order], source, target) > 0  # the tissue's places are what rows stand for
    difference = transport_plan(vectors(seed + 2), target) - transport_plan(source, target)
    assert_close(transport_loss(vectors(seed + 2), source, target), difference.abs().mean())


@pytest.mark.parametrize("kind", ["random", "equal", "opposite", "zero"])
@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_gradients_are_finite_and_the_virtual_sides_alone(kind: str, epsilon: float) -> None:
    source, target = vectors(0).float().requires_grad_(), vectors(1).float().requires_grad_()
    start = {"random": vectors(2), "equal": target, "opposite": -target, "zero": torch.zeros(3, 6, 4)}[kind]
    virtual = start.detach().float().clone().requires_grad_()
    (transport_loss(virtual, source, target, epsilon) + correlation_loss(virtual, source)).backward()
    assert virtual.grad is not None
    assert virtual.grad.isfinite().all()
    assert source.grad is None
    assert target.grad is None


def test_transport_of_a_batch_is_the_mean_of_its_images() -> None:
    virtual, source, target = vectors(0), vectors(1), vectors(2)
    alone = [transport_loss(virtual[[image]], source[[image]], target[[image]]) for image in range(3)]
    assert_close(transport_loss(virtual, source, target), torch.stack(alone).mean())
