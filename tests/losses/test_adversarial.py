import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from restain.losses.adversarial import (
    bce_discriminator_loss,
    bce_generator_loss,
    lsgan_discriminator_loss,
    lsgan_generator_loss,
)
from restain.randomness import generator


def scores(seed: int) -> Tensor:
    return torch.randn(3, 1, 4, 4, generator=generator(seed, "scores"), dtype=torch.float64)


@given(st.integers(0, 10**6))
def test_by_definition_and_as_a_mean_over_images(seed: int) -> None:
    real, fake = scores(seed), scores(seed + 1)
    pairs = list(zip(real, fake, strict=True))
    told = [
        0.5 * sum((r - 1) ** 2 for r in one.flatten()) / 16 + 0.5 * sum(f**2 for f in two.flatten()) / 16
        for one, two in pairs
    ]
    passed = [sum((f - 1) ** 2 for f in two.flatten()) / 16 for _, two in pairs]
    assert_close(lsgan_discriminator_loss(real, fake), torch.stack(told).mean())
    assert_close(lsgan_generator_loss(fake), torch.stack(passed).mean())


def test_limits() -> None:
    ones, zeros = torch.ones(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    assert lsgan_discriminator_loss(ones, zeros) == 0
    assert lsgan_discriminator_loss(zeros, ones) == 1
    assert lsgan_generator_loss(ones) == 0
    assert lsgan_generator_loss(zeros) == 1


def test_who_cannot_tell_does_best_to_say_a_half() -> None:
    score = torch.full((1, 1, 3, 3), 0.5, requires_grad=True)
    lsgan_discriminator_loss(score, score).backward()
    assert_close(score.grad, torch.zeros_like(score))


def test_autocast_changes_nothing() -> None:
    real, fake = scores(0).float(), scores(1).float()
    told = lsgan_discriminator_loss(real, fake)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lsgan_discriminator_loss(real, fake), told)
        assert lsgan_generator_loss(fake.bfloat16()).dtype == torch.float32


@given(st.integers(0, 10**6))
def test_cross_entropy_by_definition_and_by_torch(seed: int) -> None:
    real, fake = scores(seed), scores(seed + 1)
    p, q = 1 / (1 + (-real).exp()), 1 / (1 + (-fake).exp())
    by_hand = [(-r.log() - (1 - f).log()).mean() / 2 for r, f in zip(p, q, strict=True)]
    assert_close(bce_discriminator_loss(real, fake), torch.stack(by_hand).mean())
    assert_close(bce_generator_loss(fake), F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake)))
    assert_close(bce_discriminator_loss(real, fake), bce_discriminator_loss(-fake, -real))


def test_cross_entropy_at_its_limits() -> None:
    zero, sure = torch.zeros(1, 1, 3, 3), torch.full((1, 1, 3, 3), 1e4)
    assert_close(bce_discriminator_loss(zero, zero), torch.tensor(2.0).log())
    assert bce_discriminator_loss(sure, -sure) == 0
    assert bce_discriminator_loss(-sure, sure) == 1e4, "no infinity where a discriminator is sure and wrong"
    losing = (-sure).requires_grad_()
    bce_generator_loss(losing).backward()
    assert losing.grad is not None
    assert_close(losing.grad.sum(), torch.tensor(-1.0))


def test_autocast_does_not_change_cross_entropy() -> None:
    real, fake = scores(0).float(), scores(1).float()
    told = bce_discriminator_loss(real, fake)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bce_discriminator_loss(real, fake), told)
        assert bce_generator_loss(fake.bfloat16()).dtype == torch.float32
