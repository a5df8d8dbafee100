from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import correlate1d, gaussian_filter
from torch import Tensor
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.losses.pyramid import LEVEL_WEIGHTS, gaussian_pyramid_loss, octave_l1_losses
from restain.randomness import generator

Golden = Callable[[str], dict[str, NDArray[np.float32]]]
SEEDS = st.integers(0, 10**6)


def images(seed: int, height: int = 36, width: int = 40) -> Tensor:
    return 2 * torch.rand(2, 3, height, width, generator=generator(seed, "images"), dtype=torch.float64) - 1


def test_published_levels_and_loss(golden: Golden) -> None:
    expected = {name: torch.from_numpy(array) for name, array in golden("gaussian_pyramid").items()}
    virtual, real = expected["fake"], expected["real"]
    assert_close(gaussian_pyramid_loss(virtual, real), expected["loss"], atol=1e-5, rtol=0)
    for level, size in enumerate(expected["levels"]):
        only = [6.0 if index == level else 0.0 for index in range(6)]
        assert_close(gaussian_pyramid_loss(virtual, real, only).double(), size, atol=1e-5, rtol=0)


@given(SEEDS, st.integers(33, 45))
def test_by_scipy_on_each_image_by_itself(seed: int, height: int) -> None:
    virtual, real = images(seed, height), images(seed + 1, height)
    total = 0.0
    for index, weight in enumerate(LEVEL_WEIGHTS):
        levels = []
        for stack in (virtual.numpy(), real.numpy()):
            level = stack
            for step in range(index + 1):
                if step < 5:  # the last level has no blur of its own
                    blurred = correlate1d(level, np.array([1, 4, 6, 4, 1]) / 16, axis=2, mode="mirror")
                    blurred = correlate1d(blurred, np.array([1, 4, 6, 4, 1]) / 16, axis=3, mode="mirror")
                    level = blurred if step == index else blurred[:, :, ::2, ::2]
            levels.append(level)
        total += weight * float(np.abs(levels[0] - levels[1]).mean()) / 6
    assert float(gaussian_pyramid_loss(virtual, real)) == pytest.approx(total)


@given(SEEDS)
def test_symmetries(seed: int) -> None:
    virtual, real = images(seed), images(seed + 1)
    loss = gaussian_pyramid_loss(virtual, real)
    assert_close(gaussian_pyramid_loss(real, virtual), loss)
    assert_close(gaussian_pyramid_loss(virtual.mT, real.mT), loss)
    assert_close(gaussian_pyramid_loss(3 * virtual + 1, 3 * real + 1), 3 * loss)


def test_limits() -> None:
    virtual = images(0)
    assert gaussian_pyramid_loss(virtual, virtual) == 0
    assert_close(gaussian_pyramid_loss(virtual, virtual + 0.5), torch.tensor(0.5 * sum(LEVEL_WEIGHTS) / 6).double())
    assert_close(gaussian_pyramid_loss(virtual, images(1), [1.0]), (virtual - images(1)).abs().mean())


def test_a_small_shift_costs_little_on_coarse_levels() -> None:
    tissue = images(0, 64, 64)
    fine, coarse = (gaussian_pyramid_loss(tissue, tissue.roll(1, 3), weights) for weights in ([1.0], [0, 0, 0, 0, 5.0]))
    assert coarse < fine / 10


def test_a_batch_is_the_mean_of_its_images() -> None:
    virtual, real = images(0), images(1)
    one_by_one = [gaussian_pyramid_loss(virtual[[image]], real[[image]]) for image in range(2)]
    assert_close(gaussian_pyramid_loss(virtual, real), torch.stack(one_by_one).mean())


@pytest.mark.parametrize("level", [None, 0.0], ids=["random", "equal images"])
def test_gradients_are_finite(level: float | None) -> None:
    virtual = (images(0) if level is None else torch.full((2, 3, 36, 40), level).double()).requires_grad_()
    gaussian_pyramid_loss(virtual, torch.zeros_like(virtual)).backward()
    assert virtual.grad is not None
    assert virtual.grad.isfinite().all()


def test_autocast_changes_nothing() -> None:
    virtual, real = images(0).float(), images(1).float()
    loss = gaussian_pyramid_loss(virtual, real)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gaussian_pyramid_loss(virtual, real), loss)
        assert gaussian_pyramid_loss(virtual.bfloat16(), real).dtype == torch.float32


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="6 levels need images of at least 33 px, not 32"):
        gaussian_pyramid_loss(images(0, 32), images(1, 32))
    with pytest.raises(ShapeError, match="same shape"):
        gaussian_pyramid_loss(images(0), images(1)[:1])


@given(SEEDS, st.integers(9, 30))
def test_octaves_by_scipy_on_each_image_by_itself(seed: int, height: int) -> None:
    octaves = [stack.numpy() for stack in (images(seed, height), images(seed + 1, height))]
    expected = []
    for _ in range(4):
        expected.append(float(np.abs(octaves[0] - octaves[1]).mean()))
        for _ in range(4):  # a Gaussian cut off at one px is 3 x 3
            octaves = [gaussian_filter(stack, 1.0, axes=(2, 3), radius=1, mode="mirror") for stack in octaves]
        octaves = [stack[:, :, ::2, ::2] for stack in octaves]
    assert [float(loss) for loss in octave_l1_losses(*images_of(seed, height))] == pytest.approx(expected)


def images_of(seed: int, height: int) -> tuple[Tensor, Tensor]:
    return images(seed, height), images(seed + 1, height)


@given(SEEDS)
def test_symmetries_and_limits_of_octaves(seed: int) -> None:
    virtual, real = images(seed), images(seed + 1)
    losses = torch.stack(octave_l1_losses(virtual, real))
    assert_close(torch.stack(octave_l1_losses(real, virtual)), losses)
    assert_close(torch.stack(octave_l1_losses(virtual.mT, real.mT)), losses)
    assert_close(losses[0], (virtual - real).abs().mean())
    assert_close(torch.stack(octave_l1_losses(virtual, virtual + 0.5)), torch.full((4,), 0.5).double())
    one_by_one = [torch.stack(octave_l1_losses(virtual[[image]], real[[image]])) for image in range(2)]
    assert_close(losses, torch.stack(one_by_one).mean(0))


def test_a_small_shift_costs_little_in_coarse_octaves() -> None:
    tissue = images(0, 64, 64)
    losses = octave_l1_losses(tissue, tissue.roll(1, 3))
    assert losses[3] < losses[2] < losses[1] < losses[0]
    assert losses[3] < losses[0] / 20


def test_octaves_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="4 octaves need images of at least 9 px, not 8"):
        octave_l1_losses(images(0, 8), images(1, 8))
