"""Seams show where there are any, and nowhere else."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.metrics.seams import seams


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def test_an_untiled_image_scores_one() -> None:
    assert_close(seams(noise(2, 3, 160, 160), 16), torch.ones(2), rtol=0.05, atol=0)


def test_tiles_of_other_brightness_score_far_more() -> None:
    images = noise(3, 3, 96, 128) * 0.1
    offsets = noise(1, 1, 3, 4).repeat_interleave(32, -2).repeat_interleave(32, -1)
    images[1] += offsets[0]
    plain, tiled, again = seams(images, 32).tolist()
    assert tiled > 5 * plain
    assert again < 1.3


def test_it_is_the_ratio_of_steps_by_loops() -> None:
    image = noise(1, 3, 24, 20)
    borders, middles = [], []
    for channel in range(3):
        for y in range(24):
            for x in range(20):
                for dy, dx in ((0, 1), (1, 0)):
                    if y + dy < 24 and x + dx < 20:
                        step = (image[0, channel, y + dy, x + dx] - image[0, channel, y, x]).abs()
                        place = (x if dx else y) % 8
                        if place == 7:
                            borders.append(step)
                        if place == 3:
                            middles.append(step)
    assert_close(seams(image, 8)[0], torch.stack(borders).mean() / torch.stack(middles).mean())


def test_a_brighter_image_scores_the_same() -> None:
    images = noise(1, 3, 40, 40)
    assert_close(seams(images, 8), seams(images * 3 + 1, 8))


def test_an_image_without_borders_is_refused() -> None:
    with pytest.raises(ShapeError, match="32 × 24 px has no borders between tiles of 32 px"):
        seams(noise(1, 3, 24, 32), 32)
