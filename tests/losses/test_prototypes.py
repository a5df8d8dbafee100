"""Prototypes across sections: the slow definition, symmetries, limits, and features that are zero."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from restain.losses.prototypes import class_prototypes, prototype_loss
from restain.randomness import generator

SEEDS = st.integers(0, 10**6)
PLACES = [(i, j) for i in range(4) for j in range(3)]


def drawn(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, logits and masks of two sections."""
    draws = generator(seed, "sections")
    features = torch.randn(2, 5, 4, 3, generator=draws, dtype=torch.float64)
    logits = torch.randn(2, 2, 4, 3, generator=draws, dtype=torch.float64)
    return features, logits, torch.rand(2, 1, 4, 3, generator=draws) < 0.4


def softmax(scores: list[float]) -> list[float]:
    return [math.exp(score) / sum(map(math.exp, scores)) for score in scores]


def loss_by_loops(features: Tensor, logits: Tensor, masks: Tensor, softmaxes: int) -> float:
    losses = []
    for source, target in ((0, 1), (1, 0)):
        shares = {(i, j): softmax(logits[source, :, i, j].tolist()) for i, j in PLACES}
        means = [
            sum(shares[i, j][label] * features[source, :, i, j] for i, j in PLACES)
            / (sum(share[label] for share in shares.values()) + 1e-5)
            for label in (0, 1)
        ]
        for i, j in PLACES:
            scores = [float(F.cosine_similarity(features[target, :, i, j], mean, dim=0)) for mean in means]
            for _ in range(softmaxes):
                scores = softmax(scores)
            losses.append(-math.log(scores[int(masks[target, 0, i, j])]))
    return sum(losses) / len(losses)


@given(SEEDS, st.sampled_from([1, 2]))
def test_the_loss_by_its_definition(seed: int, softmaxes: int) -> None:
    sections = drawn(seed)
    assert float(prototype_loss(*sections, softmaxes)) == pytest.approx(loss_by_loops(*sections, softmaxes))


@given(SEEDS)
def test_the_two_sections_are_treated_alike(seed: int) -> None:
    features, logits, masks = drawn(seed)
    loss = prototype_loss(features, logits, masks)
    assert_close(prototype_loss(features.flip(0), logits.flip(0), masks.flip(0)), loss)
    scale = torch.tensor([3.0, 0.5]).view(2, 1, 1, 1)
    assert_close(prototype_loss(scale * features, logits, masks), loss)  # directions alone count


def test_features_that_tell_the_classes_apart_cost_the_least_and_equal_ones_an_even_guess() -> None:
    _, _, masks = drawn(0)
    clear = torch.cat([~masks, masks], 1).double()
    for softmaxes, least in ((1, -1.0), (2, math.tanh(-0.5))):  # a cosine of 1 and one of 0; probabilities of those
        found = prototype_loss(clear, 1e3 * clear, masks, softmaxes)
        assert float(found) == pytest.approx(math.log(1 + math.exp(least)), rel=1e-4)
    blank = torch.ones(2, 5, 4, 3, dtype=torch.float64)
    assert float(prototype_loss(blank, 1e3 * clear, masks)) == pytest.approx(math.log(2))


def test_gradients_are_finite_where_features_are_zero_and_classes_are_missing() -> None:
    _, logits, masks = drawn(0)
    for sure in (logits, 1e4 * torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).expand(2, 2, 4, 3)):
        features = torch.zeros(2, 5, 4, 3, requires_grad=True)
        prototype_loss(features, sure.float(), masks).backward()
        assert features.grad is not None
        assert features.grad.isfinite().all()


def test_a_prototype_of_nothing_is_zero_and_of_equal_shares_the_mean() -> None:
    features, _, _ = drawn(0)
    assert not class_prototypes(features, torch.zeros(2, 2, 4, 3, dtype=torch.float64)).any()
    even = class_prototypes(features, torch.ones(2, 2, 4, 3, dtype=torch.float64))
    assert_close(even, features.mean((2, 3))[:, None].expand(2, 2, 5), rtol=1e-5, atol=1e-5)
