import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.testing import assert_close

from restain import alignment
from restain.randomness import generator

SEEDS = st.integers(0, 10**6)


def features(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, "features"), dtype=torch.float64)


@given(SEEDS, st.floats(0.05, 1))
def test_sinkhorn_gives_every_region_the_same_mass(seed: int, epsilon: float) -> None:
    plan = alignment.sinkhorn_alignment(features(seed, 2, 4, 3, 3), features(seed + 1, 2, 4, 3, 3), epsilon, 1000)
    assert_close(plan.sum(2), torch.ones(2, 9, dtype=torch.float64))
    assert_close(plan.sum(1), torch.ones(2, 9, dtype=torch.float64), atol=1e-3, rtol=0)


@given(SEEDS)
def test_sinkhorn_in_the_log_domain_is_the_plain_one(seed: int) -> None:
    virtual, real = features(seed, 1, 4, 3, 3), features(seed + 1, 1, 4, 3, 3)
    kernel = ((alignment.region_similarity(virtual, real)[0] - 1) / 0.2).exp()
    column = torch.ones(9, dtype=torch.float64)
    for _ in range(7):
        row = 1 / (kernel @ column)
        column = 1 / (kernel.T @ row)
    plan = kernel * column
    assert_close(alignment.sinkhorn_alignment(virtual, real, 0.2, 7)[0], plan / plan.sum(1, keepdim=True))


def test_sinkhorn_with_little_entropy_is_the_best_assignment() -> None:
    virtual, real = features(3, 1, 6, 3, 3), features(4, 1, 6, 3, 3)
    similarity = alignment.region_similarity(virtual, real)[0]
    _, expected = linear_sum_assignment(similarity.numpy(), maximize=True)
    plan = alignment.sinkhorn_alignment(virtual, real, 0.002, 3000)[0]
    assert plan.argmax(1).tolist() == expected.tolist()
    assert plan.amax(1).min() > 0.9


def test_sinkhorn_with_much_entropy_sees_no_difference() -> None:
    plan = alignment.sinkhorn_alignment(features(0, 1, 4, 3, 3), features(1, 1, 4, 3, 3), 1e6, 3)
    assert_close(plan, torch.full((1, 9, 9), 1 / 9, dtype=torch.float64), atol=1e-5, rtol=0)
