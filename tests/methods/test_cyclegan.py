"""Facts about CycleGAN: its terms pass by pass, and the pool of images."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.errors import ShapeError
from restain.methods.base import Method, Progress
from restain.methods.cyclegan import CycleGan, CycleGanConfig, ImagePool
from restain.randomness import generator

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]


def images(*numbers: float) -> Tensor:
    """One constant image of 2 x 2 px for each number."""
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 2, 2).clone()


def numbers(images: Tensor) -> list[float]:
    return images[:, 0, 0, 0].tolist()


def draws(step: int, count: int = 1) -> list[torch.Generator]:
    return [generator(0, "test", step, image) for image in range(count)]


def test_the_terms_are_the_papers(build: Build, draw_pair: DrawPair, progress: Progress) -> None:
    pair = draw_pair(0, 1, dtype=torch.float64)
    method = build("cyclegan").double()
    assert isinstance(method, CycleGan)
    still = {
        name: torch.optim.SGD(optimizer.param_groups[0]["params"], lr=0.0)
        for name, optimizer in method.optimizers().items()
    }
    losses = method.step(pair, still, progress)
    there, back, judge, he_judge = (
        method.generator, method.back_generator, method.discriminator, method.he_discriminator
    )  # fmt: skip
    with torch.no_grad():
        virtual, virtual_he = there(pair.he), back(pair.ihc)
        expected = {
            "generator/gan": (judge(virtual) - 1).square().mean(),
            "generator/gan_he": (he_judge(virtual_he) - 1).square().mean(),
            "generator/cycle": 10 * (there(virtual_he) - pair.ihc).abs().mean(),
            "generator/cycle_he": 10 * (back(virtual) - pair.he).abs().mean(),
            "generator/identity": 5 * (there(pair.ihc) - pair.ihc).abs().mean(),
            "generator/identity_he": 5 * (back(pair.he) - pair.he).abs().mean(),
            "discriminator/gan": ((judge(pair.ihc) - 1).square().mean() + judge(virtual).square().mean()) / 2,
            "discriminator/gan_he": ((he_judge(pair.he) - 1).square().mean() + he_judge(virtual_he).square().mean())
            / 2,
        }
    assert losses.keys() == expected.keys()
    for key, loss in losses.items():
        assert_close(loss, expected[key], msg=lambda text, key=key: f"{key}: {text}")


def test_both_directions_are_alike(build: Build, draw_pair: DrawPair, progress: Progress) -> None:
    method, pair = build("cyclegan", pool=0), draw_pair(0)
    mirrored = copy.deepcopy(method)
    assert isinstance(mirrored, CycleGan)
    mirrored.generator, mirrored.back_generator = mirrored.back_generator, mirrored.generator
    mirrored.discriminator, mirrored.he_discriminator = mirrored.he_discriminator, mirrored.discriminator
    one = method.step(pair, method.optimizers(), progress)
    swapped = Pair(pair.ihc, pair.he, pair.grade, pair.index, pair.names)
    other = mirrored.step(swapped, mirrored.optimizers(), progress)
    for key, loss in one.items():
        twin = key.removesuffix("_he") if key.endswith("_he") else f"{key}_he"
        assert_close(other[twin], loss, msg=lambda text, key=key: f"{key}: {text}")


def test_a_pool_that_is_not_full_shows_what_is_new_and_keeps_it() -> None:
    pool = ImagePool(3)
    assert numbers(pool.exchange(images(1, 2), draws(0, 2))) == [1, 2]
    assert numbers(pool.images) == [1, 2]
    assert numbers(pool.exchange(images(3), draws(1))) == [3]
    assert numbers(pool.images) == [1, 2, 3]


def test_a_full_pool_swaps_every_second_image_and_loses_none() -> None:
    pool = ImagePool(5)
    pool.exchange(images(0, 1, 2, 3, 4), draws(0, 5))
    swapped, places = 0, set()
    for step in range(5, 405):
        held = numbers(pool.images)
        (shown,) = numbers(pool.exchange(images(step), draws(step)))
        if shown == step:
            assert numbers(pool.images) == held
        else:
            swapped += 1
            place = held.index(shown)
            places.add(place)
            assert numbers(pool.images) == [*held[:place], step, *held[place + 1 :]]
    assert swapped == pytest.approx(200, abs=40)
    assert places == set(range(5))


def test_a_batch_is_exchanged_one_by_one() -> None:
    together, alone = ImagePool(3), ImagePool(3)
    for step in range(0, 40, 4):
        new = images(*range(step, step + 4))
        shown = together.exchange(new, draws(step, 4))
        one_by_one = [alone.exchange(new[[image]], [draws(step, 4)[image]]) for image in range(4)]
        assert torch.equal(shown, torch.cat(one_by_one))
        assert torch.equal(together.images, alone.images)


def test_a_pool_of_none_shows_what_is_new() -> None:
    pool = ImagePool(0)
    assert numbers(pool.exchange(images(1, 2), draws(0, 2))) == [1, 2]
    assert len(pool.images) == 0


def test_what_is_shown_carries_no_gradient_and_is_a_copy() -> None:
    pool = ImagePool(1)
    pool.exchange(images(7), draws(0))
    step = next(step for step in range(1, 50) if torch.rand(2, generator=draws(step)[0], dtype=torch.float64)[0] < 0.5)
    new = images(8).requires_grad_()
    shown = pool.exchange(new, draws(step))
    assert numbers(shown) == [7]
    assert not shown.requires_grad
    shown.zero_()
    assert numbers(pool.images) == [8]


@pytest.mark.parametrize("held", [0, 2, 5])
def test_the_state_takes_up_the_pool_however_full(held: int) -> None:
    pool, fresh = ImagePool(5), ImagePool(5)
    for step in range(held):
        pool.exchange(images(step), draws(step))
    fresh.load_state_dict(pool.state_dict())
    assert torch.equal(fresh.images, pool.images)
    for step in range(held, held + 9):
        assert torch.equal(fresh.exchange(images(step), draws(step)), pool.exchange(images(step), draws(step)))


def test_images_of_another_size_are_refused() -> None:
    pool = ImagePool(5)
    pool.exchange(images(1), draws(0))
    with pytest.raises(ShapeError, match=r"holds images of 2 x 2 px, but these are 6 x 4; train on crops of one size"):
        pool.exchange(torch.zeros(1, 3, 4, 6), draws(1))


def test_the_pool_decides_by_seed_step_and_image(build: Build, draw_pair: DrawPair) -> None:
    def shown(seed: int) -> Tensor:
        method = build("cyclegan", pool=1)
        assert isinstance(method, CycleGan)
        optimizers = method.optimizers()
        for step in range(6):
            method.step(draw_pair(step), optimizers, Progress(seed, step, 10, 10))
        return method.pool.images

    assert torch.equal(shown(0), shown(0))
    assert any(not torch.equal(shown(0), shown(seed)) for seed in (1, 2))


def test_the_authors_settings() -> None:
    config = CycleGanConfig()
    assert (config.width, config.blocks, config.pool, config.lr) == (64, 9, 50, 2e-4)
    assert (config.lambda_cycle, config.lambda_identity) == (10, 0.5)
