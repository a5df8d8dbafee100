from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.losses.statistics import spread_loss
from restain.randomness import generator

Golden = Callable[[str], dict[str, NDArray[np.float32]]]
SEEDS = st.integers(0, 10**6)


def images(seed: int, contrast: float = 0.1) -> Tensor:
    noise = torch.rand(2, 3, 8, 8, generator=generator(seed, "images"), dtype=torch.float64)
    return contrast * (2 * noise - 1)


def test_published_numbers(golden: Golden) -> None:
    expected = {name: torch.from_numpy(array) for name, array in golden("spread_loss").items()}
    small = spread_loss(expected["generated"], expected["target"], float(expected["weight"]))
    large = spread_loss(expected["generated_large"], expected["target"], float(expected["weight_large"]))
    assert_close(small, expected["loss_small"], atol=1e-5, rtol=1e-5)
    assert_close(large, expected["loss_large"], atol=1e-5, rtol=0)


def spread_by_numpy(virtual: Tensor, real: Tensor, weight: float) -> float:
    losses = []
    for one, other in zip(virtual.numpy(), real.numpy(), strict=True):
        colours = [(np.var(a) - np.var(b)) ** 2 for a, b in zip(one, other, strict=True)]
        losses.append(min(float(np.mean(colours)) * 512 * 512 * weight, 1.0))
    return float(np.mean(losses))


@given(SEEDS, st.floats(0.05, 1))
def test_by_definition_on_each_image_by_itself(seed: int, contrast: float) -> None:
    virtual, real = images(seed, contrast), images(seed + 1)
    expected = spread_by_numpy(virtual, real, 0.01)
    assert float(spread_loss(virtual, real)) == pytest.approx(expected)


@given(SEEDS, st.floats(-1, 1))
def test_neither_place_nor_brightness_matters(seed: int, shift: float) -> None:
    virtual, real = images(seed), images(seed + 1)
    loss = spread_loss(virtual, real)
    assert_close(spread_loss(virtual.flip(3) + shift, real.mT), loss)
    assert_close(spread_loss(real, virtual), loss)
    assert spread_loss(virtual, virtual + shift) < 1e-20


def test_each_image_has_its_own_limit() -> None:
    """One image far over the limit leaves the gradient of the other alone."""
    mild, wild, real = images(0)[:1], images(1, 1.0)[:1], images(2)[:1]
    together = torch.cat([mild, wild]).requires_grad_()
    spread_loss(together, torch.cat([real, real])).backward()
    alone = mild.clone().requires_grad_()
    spread_loss(alone, real).backward()
    assert together.grad is not None
    assert alone.grad is not None
    assert_close(together.grad[:1], alone.grad / 2)


def test_the_weight_stands_inside_the_limit() -> None:
    virtual = images(0)[:1]
    real = virtual * (1 + 0.005 / virtual.var(dim=(2, 3), correction=0, keepdim=True)).sqrt()  # variances 0.005 larger
    assert float(spread_loss(virtual, real, weight=0.01)) == pytest.approx(0.01 * 512**2 * 0.005**2)  # 0.066, not 0.01


def test_above_the_limit_the_weight_cancels() -> None:
    first, second = (images(0, 1.0).requires_grad_() for _ in range(2))
    spread_loss(first, images(1), weight=1.0).backward()
    spread_loss(second, images(1), weight=1000.0).backward()
    assert_close(first.grad, second.grad)


@pytest.mark.parametrize("level", [None, 0.0, 1.0], ids=["random", "black", "white"])
def test_gradients_are_finite(level: float | None) -> None:
    virtual = (images(0, 1.0) if level is None else torch.full((2, 3, 8, 8), level).double()).requires_grad_()
    spread_loss(virtual, images(1)).backward()
    assert virtual.grad is not None
    assert virtual.grad.isfinite().all()


def test_no_value_is_asked_of_the_device() -> None:
    assert spread_loss(images(0).to("meta"), images(1).to("meta")).shape == ()


def test_autocast_changes_nothing() -> None:
    virtual, real = images(0).float(), images(1).float()
    loss = spread_loss(virtual, real)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(spread_loss(virtual, real), loss)
        assert spread_loss(virtual.bfloat16(), real).dtype == torch.float32


def test_shapes_must_match() -> None:
    with pytest.raises(ShapeError, match="virtual 2 × 3 × 8 × 8, real 1 × 3 × 8 × 8"):
        spread_loss(images(0), images(1)[:1])
