"""Facts about the discriminators of the older methods: what a score sees, several scales, how they normalise."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.networks.discriminator import Discriminator, MultiscaleDiscriminator
from restain.networks.normalisation import BatchNorm


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1


def patchgan(norm: str = "none", channels: int = 3) -> Discriminator:
    return Discriminator(2, 3, channels=channels, spectral=False, antialias=False, norm=norm).double()  # type: ignore[arg-type]  # one of its names


def test_a_score_sees_70_px() -> None:
    x = images(1, 3, 128, 128).requires_grad_()
    (gradient,) = torch.autograd.grad(patchgan()(x)[0, 0, 7, 7], x)
    rows = gradient[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    assert int(rows[-1] - rows[0]) + 1 == 70


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        conditional = Discriminator(64, 3, channels=6, spectral=False, antialias=False, norm="batch")
        plain = Discriminator(64, 3, spectral=False, antialias=False)
    sizes = [round(sum(weight.numel() for weight in part.parameters()) / 1e6, 3) for part in (conditional, plain)]
    assert sizes == [2.769, 2.765]


def test_the_stage_that_is_given_normalises() -> None:
    layers = list(patchgan("batch").layers)
    assert [isinstance(layer, BatchNorm) for layer in layers].count(True) == 3
    for layer, kind in zip(layers, (nn.Conv2d, nn.LeakyReLU, nn.Conv2d), strict=False):
        assert isinstance(layer, kind), "the first stage has no norm"
    assert isinstance(layers[-1], nn.Conv2d)


@torch.no_grad()
def test_scales_see_the_image_halved() -> None:
    first, second = patchgan("instance", 6), patchgan("instance", 6)
    x = images(2, 6, 64, 96)
    fine, coarse = MultiscaleDiscriminator(first, second)(x)
    assert_close(fine, first(x))
    assert coarse.shape == (2, 1, 2, 4)
    by_hand = torch.empty(2, 6, 32, 48, dtype=torch.float64)
    for row in range(32):
        for column in range(48):
            square = x[:, :, max(0, 2 * row - 1) : 2 * row + 2, max(0, 2 * column - 1) : 2 * column + 2]
            by_hand[:, :, row, column] = square.mean(dim=(2, 3))
    assert_close(coarse, second(by_hand))


def test_a_scale_that_is_too_small_is_refused() -> None:
    with pytest.raises(ShapeError, match="at least 32 px a side, but these are 24 x 24"):
        MultiscaleDiscriminator(patchgan(), patchgan())(images(1, 3, 48, 48))
