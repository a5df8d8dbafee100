import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from restain.losses.adversarial import lsgan_discriminator_loss, lsgan_generator_loss
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
