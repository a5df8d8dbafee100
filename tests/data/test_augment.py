"""Augmentation: what is drawn, and what it does to colours."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from pydantic import ValidationError
from torch.testing import assert_close

from restain.data.augment import Augment, Change, centre_window, crop_and_mirror, draw_change, jitter_colour
from restain.image import to_tensor, to_uint8
from restain.randomness import generator

RGB = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 20), st.integers(0, 20), st.integers(0, 1000))
def test_a_window_never_leaves_the_tile(width: int, height: int, extra_x: int, extra_y: int, seed: int) -> None:
    size = (width + extra_x, height + extra_y)
    for change in (
        draw_change(Augment(), size, (width, height), generator(seed)),
        centre_window(size, (width, height)),
    ):
        assert 0 <= change.left <= extra_x
        assert 0 <= change.top <= extra_y


def test_every_window_and_every_mirror_is_drawn_alike_often() -> None:
    changes = [draw_change(Augment(flips=True), (6, 4), (4, 4), generator(0, i)) for i in range(600)]
    assert {change.top for change in changes} == {0}
    for left in range(3):
        assert sum(change.left == left for change in changes) == pytest.approx(200, abs=40)
    for axes in ((False, False), (False, True), (True, False), (True, True)):
        assert sum((change.mirror_x, change.mirror_y) == axes for change in changes) == pytest.approx(150, abs=40)


def test_by_default_pairs_are_mirrored_left_to_right_alone() -> None:
    changes = [draw_change(Augment(), (6, 4), (4, 4), generator(0, i)) for i in range(600)]
    assert not any(change.mirror_y for change in changes)
    assert sum(change.mirror_x for change in changes) == pytest.approx(300, abs=50)
    both = [draw_change(Augment(flips=True), (6, 4), (4, 4), generator(0, i)) for i in range(600)]
    assert [change.mirror_x for change in both] == [change.mirror_x for change in changes]


def test_factors_fill_their_range_and_no_more() -> None:
    changes = [draw_change(Augment(), (4, 4), (4, 4), generator(0, i)) for i in range(600)]
    for name, strength in (("brightness", 0.3), ("contrast", 0.3), ("saturation", 0.2)):
        factors = np.array([getattr(change, name) for change in changes])
        assert abs(factors - 1).max() <= strength
        assert factors.min() < 1 - 0.97 * strength
        assert factors.max() > 1 + 0.97 * strength
        assert factors.mean() == pytest.approx(1, abs=0.02)


def test_without_strength_nothing_but_the_window_is_drawn() -> None:
    still = Augment(flips=False, brightness=0, contrast=0, saturation=0)
    change = draw_change(still, (9, 9), (4, 4), generator(3))
    assert change == Change(change.left, change.top, 4, 4)
    assert draw_change(Augment(), (9, 9), (4, 4), generator(3)).left == change.left


def test_cutting_out_copies_the_window_mirrored() -> None:
    window = crop_and_mirror(RGB, Change(left=2, top=3, width=4, height=5, mirror_x=True))
    assert (window == np.flip(RGB[3:8, 2:6], axis=1)).all()
    window = crop_and_mirror(RGB, Change(left=2, top=3, width=4, height=5, mirror_y=True))
    assert (window == np.flip(RGB[3:8, 2:6], axis=0)).all()
    assert np.shares_memory(window, RGB)


def test_the_centre_is_in_the_middle() -> None:
    change = centre_window((10, 12), (4, 4))
    assert (change.left, change.top, change.width, change.height) == (3, 4, 4, 4)
    assert (crop_and_mirror(RGB, centre_window((10, 12), (10, 12))) == RGB).all()


@pytest.mark.parametrize(
    ("enhance", "name"),
    [(ImageEnhance.Brightness, "brightness"), (ImageEnhance.Contrast, "contrast"), (ImageEnhance.Color, "saturation")],
)
@pytest.mark.parametrize("factor", [0.0, 0.7, 1.0, 1.3])
def test_each_factor_means_what_it_means_in_pillow(enhance: type, name: str, factor: float) -> None:
    ours = to_uint8(jitter_colour(to_tensor(RGB), Change(0, 0, 10, 12, **{name: factor})))[0]
    theirs = np.asarray(enhance(Image.fromarray(RGB)).enhance(factor))
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1  # Pillow rounds on the way


def test_no_jitter_is_exact_and_jitter_stays_in_range() -> None:
    images = to_tensor(RGB)
    assert_close(jitter_colour(images, Change(0, 0, 10, 12)), images, rtol=0, atol=0)
    strong = jitter_colour(images, Change(0, 0, 10, 12, brightness=1.9, contrast=1.9, saturation=1.9))
    assert strong.min() >= -1
    assert strong.max() <= 1


def test_images_of_a_batch_do_not_see_each_other() -> None:
    images = torch.cat([to_tensor(RGB), to_tensor(255 - RGB)])
    change = Change(0, 0, 10, 12, brightness=0.8, contrast=1.2, saturation=1.1)
    one_by_one = torch.cat([jitter_colour(images[:1], change), jitter_colour(images[1:], change)])
    assert_close(jitter_colour(images, change), one_by_one)


def test_an_impossible_strength_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Augment(brightness=1.5)
    with pytest.raises(ValidationError, match="Extra inputs"):
        Augment(hue=0.1)  # type: ignore[call-arg]  # refused on purpose
