"""Familiarity: what the training looked like is usual, other colours and blur are not."""

import pytest
import torch
from torch.testing import assert_close

from restain.data.phantom import PhantomSettings, draw_pair
from restain.errors import CheckpointError, InputError
from restain.image import to_tensor
from restain.stains import to_unit
from restain.trust.familiarity import BLOCK_PX, Familiarity, block_features, familiarity_of, fit_familiarity


def test_what_was_trained_on_is_familiar_and_other_images_are_not() -> None:
    generator = torch.Generator().manual_seed(4)
    pink = torch.tensor([0.85, 0.5, 0.7]).view(1, 3, 1, 1)
    shades = 0.9 + 0.2 * torch.rand(40, 1, 1, 1, generator=generator)
    images = (pink * shades + 0.05 * torch.randn(40, 3, 128, 128, generator=generator)).clamp(0.01, 1)
    fitted = fit_familiarity([images[:30]], [images[30:39]])
    again = Familiarity.from_json(fitted.as_json())
    assert familiarity_of({}) is None
    assert familiarity_of({"familiarity": fitted.as_json()}) is not None
    assert_close(again.distances(images[39:]), fitted.distances(images[39:]))
    assert fitted.distances(images[39:]).shape == (1, 128 // BLOCK_PX, 128 // BLOCK_PX)
    assert fitted.unlike(images[30:39]).float().mean() < 0.05
    assert not fitted.unlike(images[:30]).float().mean() > 0.1
    assert fitted.unlike(images[39:].flip(1)).all(), "blue for red"
    assert fitted.unlike(torch.nn.functional.avg_pool2d(images[39:], 9, 1, 4)).all(), "blurred"


def test_features_do_not_see_orientation_much() -> None:
    he = to_unit(to_tensor(draw_pair(1, PhantomSettings(size_px=64)).he))
    assert_close(block_features(he.flip(-1)), block_features(he), rtol=0, atol=0.1)
    assert block_features(he).shape == (1, 10, 1, 1)


def test_too_little_to_fit_is_refused() -> None:
    with pytest.raises(InputError, match="too few"):
        fit_familiarity([torch.rand(1, 3, 64, 64)], [])
    with pytest.raises(InputError, match="smaller than a block"):
        block_features(torch.rand(1, 3, 32, 64))


@pytest.mark.parametrize(
    "changed",
    [
        3,
        {},
        [1],
        {"mean": "x"},
        {"mean": [0.0] * 9},
        {"mean": [[0.0] * 10]},
        {"precision": []},
        {"precision": [[0.0] * 10] * 9 + [[0.0]]},
        {"threshold": "x"},
        {"threshold": float("nan")},
        {"precision": [[float("inf")] * 10] * 10},
        {"mean": None},
    ],
)
def test_a_header_that_knows_something_else_is_refused_with_the_way_out(changed: object) -> None:
    sound = {"mean": [0.0] * 10, "precision": [[0.0] * 10] * 10, "threshold": 1.0}
    assert familiarity_of({"familiarity": sound})
    known = sound | changed if isinstance(changed, dict) and changed else changed
    with pytest.raises(CheckpointError, match="calibrate it again"):
        familiarity_of({"familiarity": known})
