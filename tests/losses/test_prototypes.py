"""Prototypes across sections: the slow definition, what must cost nothing, and images that lack a class."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.losses.prototypes import class_prototypes, prototype_loss
from restain.randomness import generator

SEEDS = st.integers(0, 10**6)


def features(seed: int, count: int = 2) -> Tensor:
    return torch.randn(count, 5, 4, 3, generator=generator(seed, "features"), dtype=torch.float64)


def masks(seed: int, count: int = 2) -> Tensor:
    mask = torch.rand(count, 1, 4, 3, generator=generator(seed, "mask")) < 0.4
    mask[..., 0, 0], mask[..., 0, 1] = True, False
    return mask


def loss_by_loops(virtual: Tensor, real: Tensor, virtual_mask: Tensor, real_mask: Tensor, scale: float) -> float:
    total = 0.0
    for image in range(len(virtual)):
        for source, mask, target, wanted in (
            (virtual, virtual_mask, real, real_mask),
            (real, real_mask, virtual, virtual_mask),
        ):
            pixels = [source[image, :, i, j] for i in range(4) for j in range(3)]
            inside = mask[image, 0].flatten().tolist()
            means = [
                torch.stack([pixel for pixel, member in zip(pixels, inside, strict=True) if member == label]).mean(0)
                for label in (False, True)
            ]
            losses = []
            for i in range(4):
                for j in range(3):
                    scores = [scale * float(F.cosine_similarity(target[image, :, i, j], mean, dim=0)) for mean in means]
                    right = scores[int(wanted[image, 0, i, j])]
                    losses.append(math.log(sum(map(math.exp, scores))) - right)
            total += sum(losses) / len(losses)
    return total / len(virtual)


@given(SEEDS, st.floats(0.5, 20))
def test_the_loss_by_its_definition(seed: int, scale: float) -> None:
    given_ = features(seed), features(seed + 1), masks(seed), masks(seed + 1)
    assert float(prototype_loss(*given_, scale)) == pytest.approx(loss_by_loops(*given_, scale))


@given(SEEDS)
def test_the_two_sections_are_treated_alike(seed: int) -> None:
    virtual, real, virtual_mask, real_mask = features(seed), features(seed + 1), masks(seed), masks(seed + 1)
    there = prototype_loss(virtual, real, virtual_mask, real_mask)
    assert_close(prototype_loss(real, virtual, real_mask, virtual_mask), there)
    assert_close(prototype_loss(3 * virtual, real, virtual_mask, real_mask), there)  # directions alone count
    assert_close(prototype_loss(virtual.flip(-1), real, virtual_mask.flip(-1), real_mask), there)  # not places


def test_features_that_tell_the_classes_apart_cost_nothing_and_equal_ones_the_most() -> None:
    virtual_mask, real_mask = masks(0), masks(1)
    clear = [torch.cat([mask.double(), 1 - mask.double()], dim=1) for mask in (virtual_mask, real_mask)]
    assert prototype_loss(*clear, virtual_mask, real_mask, scale=40) < 1e-7
    assert float(prototype_loss(*clear, virtual_mask, real_mask)) == pytest.approx(2 * math.log(1 + math.exp(-1)))
    blank = torch.ones(2, 5, 4, 3, dtype=torch.float64)
    assert float(prototype_loss(blank, blank, virtual_mask, real_mask)) == pytest.approx(2 * math.log(2))


def test_an_image_without_one_of_the_classes_counts_nothing() -> None:
    virtual, real, virtual_mask, real_mask = features(0), features(1), masks(0), masks(1)
    whole = prototype_loss(virtual[1:], real[1:], virtual_mask[1:], real_mask[1:])
    for empty in (torch.zeros(1, 1, 4, 3, dtype=torch.bool), torch.ones(1, 1, 4, 3, dtype=torch.bool)):
        assert_close(prototype_loss(virtual, real, torch.cat([empty, virtual_mask[1:]]), real_mask), whole / 2)
        assert_close(prototype_loss(virtual, real, virtual_mask, torch.cat([empty, real_mask[1:]])), whole / 2)


def test_gradients_are_finite_where_features_are_zero_and_classes_are_missing() -> None:
    virtual = torch.zeros(1, 5, 4, 3, requires_grad=True)
    for mask in (masks(0, 1), torch.zeros(1, 1, 4, 3, dtype=torch.bool)):
        virtual.grad = None
        prototype_loss(virtual, features(1, 1).float(), mask, masks(1, 1)).backward()
        assert virtual.grad is not None
        assert virtual.grad.isfinite().all()


def test_a_prototype_of_nothing_is_zero() -> None:
    nothing = torch.zeros(2, 1, 4, 3, dtype=torch.bool)
    found = class_prototypes(features(0), nothing)
    assert_close(found[:, 0], features(0).mean((2, 3)))
    assert (found[:, 1] == 0).all()


def test_shapes_must_agree() -> None:
    with pytest.raises(ShapeError, match="virtual_mask 1 × 1 × 4 × 3, real_mask 2 × 1 × 4 × 3"):
        prototype_loss(features(0), features(1), masks(0, 1), masks(1))
