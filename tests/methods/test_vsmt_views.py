"""Views: one keeps the structure, the other the stain, and no image's view depends on its batch."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Generator, Tensor
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.methods.vsmt import views
from restain.methods.vsmt.views import ViewSettings, stain_preserving, structure_preserving
from restain.randomness import generator
from restain.stains import dab_density, rgb_to_hed, to_unit

EVERYTHING = ViewSettings(rgb_jitter=1, channel_swap=1, slight_elastic=1, patchwise=1, patch_erasing=0.5)
NOTHING = ViewSettings(hed_jitter=0, slight_elastic=0, patchwise=0)


def disturbed(
    images: Tensor,
    generators: Sequence[Generator],
    per_side: int,
    rotation: tuple[float, float] = (0, 0),
    erasing: tuple[float, tuple[float, float]] = (0, (0, 0)),
) -> Tensor:
    return views.disturb_patches(images, generators, per_side, rotation, quarter_turns=0.5, flips=0.5, erasing=erasing)


CHANGES: dict[str, Callable[[Tensor, Sequence[Generator]], Tensor]] = {
    "stains": lambda x, g: views.jitter_stains(x, g, dab=(0, 1.2), haematoxylin=(0.8, 1.5)),
    "channels": lambda x, g: views.jitter_channels(x, g, factor=(0.7, 1.3), shift=(-0.2, 0.2)),
    "swap": views.swap_channels,
    "elastic": lambda x, g: views.elastic(x, g, alpha=(3, 6)),
    "patches": lambda x, g: disturbed(x, g, per_side=8, rotation=(0.5, 10), erasing=(0.5, (0.02, 0.2))),
    "shuffle": lambda x, g: views.shuffle_pixels(x, g, {8: 2, 16: 2, 32: 1, 64: 1}),
    "low pass": lambda x, g: views.keep_low_frequencies(x, g, cutoff=(0.01, 0.2), absolute=False),
    "absolute low pass": lambda x, g: views.keep_low_frequencies(x, g, cutoff=(0.01, 0.2), absolute=True),
    "structure-preserving": lambda x, g: structure_preserving(x, g, EVERYTHING),
    "stain-preserving": lambda x, g: stain_preserving(x, g, ViewSettings()),
}


def tissue(count: int = 2, height: int = 64, width: int = 96) -> Tensor:
    """Smooth random images in [-1, 1]."""
    nodes = torch.rand(count, 3, 9, 9, generator=generator(0)) * 2 - 1
    return torch.nn.functional.interpolate(nodes, (height, width), mode="bilinear", align_corners=True)


def generators(count: int, *keys: int | str) -> list[Generator]:
    return [generator(1, i, *keys) for i in range(count)]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_batch_gives_what_its_images_give_one_by_one(change: Callable[..., Tensor]) -> None:
    images = tissue(5)
    one_by_one = [change(images[i : i + 1], generators(5)[i : i + 1]) for i in range(5)]
    assert_close(change(images, generators(5)), torch.cat(one_by_one))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 72), (64, 32), (128, 128)])
def test_shape_and_range_stay_and_the_input_is_left_alone(
    change: Callable[..., Tensor], height: int, width: int
) -> None:
    images = tissue(3, height, width)
    before = images.clone()
    view = change(images, generators(3))
    assert view.shape == images.shape
    assert view.min() >= -1 - 1e-6
    assert view.max() <= 1 + 1e-6
    assert_close(images, before, rtol=0, atol=0)
    assert all((view[i] != images[i]).any() for i in range(3)) or change is views.swap_channels


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_views_follow_their_generators_alone(change: Callable[..., Tensor]) -> None:
    images, state = tissue(), torch.get_rng_state()
    first = change(images, generators(2))
    assert (torch.get_rng_state() == state).all()
    assert_close(change(images, generators(2)), first, rtol=0, atol=0)
    assert (change(images, generators(2, "other")) != first).any()


@pytest.mark.parametrize("make", [structure_preserving, stain_preserving])
def test_views_are_float32_also_inside_autocast(make: Callable[..., Tensor]) -> None:
    images = tissue(4).bfloat16()
    expected = make(images.float(), generators(4), EVERYTHING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        view = make(images, generators(4), EVERYTHING)
    assert_close(view, expected)


@pytest.mark.parametrize("make", [structure_preserving, stain_preserving])
def test_views_of_float64_are_float64_and_the_same(make: Callable[..., Tensor]) -> None:
    view = make(tissue(8).double(), generators(8), EVERYTHING)
    assert view.dtype == torch.float64
    assert_close(view, make(tissue(8), generators(8), EVERYTHING).double(), rtol=0, atol=2e-5)


# --------------------------------------------------------------------------------------------------------- composition


def test_without_changes_a_structure_preserving_view_is_the_image() -> None:
    images = tissue()
    assert_close(structure_preserving(images, generators(2), NOTHING), images, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("field", "probability"), [("hed_jitter", 0.3), ("slight_elastic", 0.25), ("patchwise", 0.75), ("rgb_jitter", 0.5)]
)
def test_each_change_happens_as_often_as_it_is_told(field: str, probability: float) -> None:
    images = tissue(1, 32, 32).expand(400, -1, -1, -1)
    settings = NOTHING.model_copy(update={field: probability})
    view = structure_preserving(images, generators(400, field), settings)
    changed = (view != images).flatten(1).any(1).float().mean()
    assert changed.item() == pytest.approx(probability, abs=0.08)


def test_exactly_one_change_happens_to_a_stain_preserving_view() -> None:
    images = tissue(1, 32, 32).expand(400, -1, -1, -1)
    settings = ViewSettings(shuffle_px={32: 1}, cutoff=(0, 0), absolute_low_pass=False)
    view = stain_preserving(images, generators(400), settings)
    flat = view.amax((2, 3)) - view.amin((2, 3)) < 1e-4
    sort = images[0].flatten(1).sort().values
    shuffled = (view.flatten(2).sort().values - sort).abs().amax((1, 2)) == 0
    assert shuffled.float().mean().item() == pytest.approx(0.3, abs=0.07)
    assert flat.all(1).float().mean().item() == pytest.approx(0.2, abs=0.07)
    assert (view != images).flatten(1).any(1).all()


def test_a_structure_preserving_view_keeps_edges_that_a_stain_preserving_one_loses() -> None:
    images = tissue(8, 128, 128)
    images = torch.where(images[:, :1] > 0, 0.8, -0.5).expand_as(images)
    settings = ViewSettings(patchwise=0, pixel_shuffle=0.5, low_pass=0.5, strong_elastic=0, absolute_low_pass=False)

    def agreement(view: Tensor) -> Tensor:
        grey, truth = view.mean(1).flatten(1), images.mean(1).flatten(1)
        return torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(grey, truth, strict=True)])

    kept = agreement(structure_preserving(images, generators(8), settings))
    lost = agreement(stain_preserving(images, generators(8), settings))
    assert kept.min() > lost.median()
    assert kept.min() > 0.9


# -------------------------------------------------------------------------------------------------------------- stains


def test_stains_are_scaled_and_eosin_stays() -> None:
    images = (tissue() * 0.3 + 0.5).clamp(-1, 1)
    view = views.jitter_stains(images, generators(2), dab=(0, 0), haematoxylin=(1, 1))
    before, after = rgb_to_hed(to_unit(images)), rgb_to_hed(to_unit(view))
    inside = (view < 1).all(1, keepdim=True)  # where light would exceed white it is clamped
    assert dab_density(to_unit(view)).max() < 1e-3
    assert_close((after[:, :2] * inside), (before[:, :2] * inside), rtol=0, atol=1e-4)


def test_channel_jitter_sets_mean_and_spread() -> None:
    images = tissue() * 0.2
    view = views.jitter_channels(images, generators(2), factor=(1.5, 1.5), shift=(0.25, 0.25))
    assert_close(view.mean((2, 3)), images.mean((2, 3)) + 0.25)
    assert_close(view.std((2, 3)), images.std((2, 3)) * 1.5)


def test_swapped_channels_are_the_same_channels() -> None:
    images = tissue(40, 32, 32)
    view = views.swap_channels(images, generators(40))
    matches = (view[:, :, None] == images[:, None]).all(-1).all(-1).long()  # which channel of the view is which
    assert (matches.sum(1) == 1).all()
    assert (matches.sum(2) == 1).all()
    assert len({tuple(row.flatten().tolist()) for row in matches}) == 6  # all orders occur


# ----------------------------------------------------------------------------------------------------------- structure


def test_alpha_is_the_root_mean_square_displacement() -> None:
    """A ramp shows where each pixel was taken from."""
    ramp = torch.linspace(-1, 1, 512).expand(1, 3, 512, 512)
    square_sum = 0.0
    for turned in (ramp, ramp.mT):
        moved = views.elastic(turned, generators(1), alpha=(2, 2))
        square_sum += ((moved - turned) * 256).square()[:, :, 32:-32, 32:-32].mean().item() / 2
    assert math.sqrt(square_sum) == pytest.approx(2 * 2.56, rel=0.15)


def test_without_strength_nothing_is_bent_or_turned() -> None:
    images = tissue()
    assert_close(views.elastic(images, generators(2), alpha=(0, 0)), images, rtol=0, atol=1e-5)


def test_patches_are_turned_and_mirrored_in_place() -> None:
    """Without small angles each patch is one of its eight exact symmetries; with all of them occurring."""
    images = tissue(6, 64, 64)
    view = disturbed(images, generators(6), per_side=4)
    symmetries = set()
    for image, changed in zip(images, view, strict=True):
        for y in range(0, 64, 16):
            for x in range(0, 64, 16):
                patch, result = image[:, y : y + 16, x : x + 16], changed[:, y : y + 16, x : x + 16]
                forms = [torch.rot90(f, k, (1, 2)) for f in (patch, patch.flip(2)) for k in range(4)]
                distances = torch.stack([(form - result).abs().max() for form in forms])
                assert distances.min() < 1e-4
                symmetries.add(int(distances.argmin()))
    assert symmetries == set(range(8))


def test_what_happens_in_a_patch_stays_there() -> None:
    """A crop of 192 px has 6 x 6 patches of 32 px; colours turn and mirror inside them."""
    colours = torch.rand(1, 3, 6, 6, generator=generator(0)) * 2 - 1
    images = colours.repeat_interleave(32, 2).repeat_interleave(32, 3)
    settings = ViewSettings(hed_jitter=0, slight_elastic=0, patchwise=1, patch_erasing=0, patches_per_side=6)
    assert_close(structure_preserving(images, generators(1), settings), images, rtol=0, atol=1e-5)
    straddling = settings.model_copy(update={"patches_per_side": 8})
    assert (structure_preserving(images, generators(1), straddling) - images).abs().max() > 0.1


def test_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="128 x 96 px has no 6 patches per side"):
        disturbed(tissue(1, 96, 128), generators(1), per_side=6)


def test_erased_boxes_are_mid_grey_and_stay_inside_their_patches() -> None:
    images = tissue(1, 64, 64)
    view = disturbed(images, generators(1), per_side=4, rotation=(1, 10), erasing=(1, (0.04, 0.25)))
    erased = (view == 0).all(1)[0]
    for y in range(0, 64, 16):
        for x in range(0, 64, 16):
            box = erased[y : y + 16, x : x + 16]
            rows, columns = box.any(1), box.any(0)
            assert 3 <= rows.sum() <= 8
            assert 3 <= columns.sum() <= 8
            assert (box == (rows[:, None] & columns)).all()


def test_small_angles_stay_small() -> None:
    spot = torch.full((1, 3, 32, 32), -1.0)
    spot[:, :, 15:17, 15:17] = 1  # the centre stays where it is, however a patch is turned
    view = disturbed(spot, generators(1), per_side=1, rotation=(1, 10))
    assert view[:, :, 15:17, 15:17].min() > 0.3
    assert_close(view.mean(), spot.mean(), rtol=0, atol=2e-3)


@given(st.sampled_from([(32, 32), (40, 40), (64, 96)]), st.integers(0, 50))
def test_shuffled_pixels_stay_in_their_patch(size: tuple[int, int], key: int) -> None:
    images = tissue(2, *size)
    view = views.shuffle_pixels(images, generators(2, key), {8: 1})
    before, after = (x.unfold(2, 8, 8).unfold(3, 8, 8).flatten(4).sort().values for x in (images, view))
    assert_close(after, before, rtol=0, atol=0)
    pixels = view.flatten(2).mT.reshape(-1, 3).tolist()
    assert {tuple(pixel) for pixel in pixels} == {tuple(p) for p in images.flatten(2).mT.reshape(-1, 3).tolist()}


def test_patch_sides_that_do_not_divide_the_image_are_left_out() -> None:
    view = views.shuffle_pixels(tissue(20, 40, 40), generators(20), {8: 1, 16: 1, 32: 1, 64: 1})
    assert view.shape == (20, 3, 40, 40)
    with pytest.raises(ShapeError, match=r"none of the patch sides \[16\] divides an image of 40 x 40 px"):
        views.shuffle_pixels(tissue(1, 40, 40), generators(1), {16: 1})


def test_waves_below_the_cutoff_stay_and_those_above_vanish() -> None:
    x = torch.arange(128) / 128
    slow, fast = torch.cos(2 * torch.pi * 4 * x), torch.cos(2 * torch.pi * 16 * x)
    images = (0.4 * slow + 0.4 * fast).expand(1, 3, 128, 128)
    for turned in (images, images.mT):
        kept = views.keep_low_frequencies(turned, generators(1), cutoff=(8 / 128, 8 / 128), absolute=False)
        expected = (0.4 * slow).expand(1, 3, 128, 128)
        assert_close(kept, expected if turned is images else expected.mT, rtol=0, atol=1e-5)


def test_the_absolute_low_pass_is_the_published_one(golden: Callable[[str], dict[str, NDArray[np.generic]]]) -> None:
    numbers = golden("vsmt_step_width4")
    he = torch.from_numpy(numbers["image/he"]) / 127.5 - 1
    kept = views.keep_low_frequencies(he, generators(1), cutoff=(0.03, 0.03), absolute=True)
    assert_close(kept[..., ::4, ::4], torch.from_numpy(numbers["low_pass_of_he_cutoff_0.03"]), rtol=0, atol=1e-5)


def test_sides_are_chosen_by_their_odds() -> None:
    """Colours of 8 px leave their patch where the shuffled one is larger."""
    images = (torch.rand(1, 3, 4, 4, generator=generator(0)) * 2 - 1).repeat_interleave(8, 2).repeat_interleave(8, 3)
    view = views.shuffle_pixels(images.expand(400, -1, -1, -1), generators(400), {8: 3, 32: 1})
    assert (view == images).flatten(1).all(1).float().mean().item() == pytest.approx(0.75, abs=0.07)


def test_patches_are_changed_as_often_as_they_are_told() -> None:
    images = tissue(60, 64, 64)
    shares = {"rotation": 0.2, "quarter_turns": 0.5, "flips": 0.36, "erasing": 0.3}
    nothing = {"rotation": (0, 30), "quarter_turns": 0, "flips": 0, "erasing": (0, (0.02, 0.2))}
    told = {"rotation": (0.2, 30), "quarter_turns": 0.5, "flips": 0.2, "erasing": (0.3, (0.02, 0.2))}
    for name, share in shares.items():
        view = views.disturb_patches(images, generators(60, name), 4, **nothing | {name: told[name]})  # type: ignore[arg-type]
        changed = (view - images).abs().unfold(2, 16, 16).unfold(3, 16, 16).amax((1, 4, 5)) > 1e-4
        assert changed.float().mean().item() == pytest.approx(share, abs=0.05), name


# -------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("shape", [(1, 3, 24, 32), (1, 3, 32, 36), (1, 1, 32, 32), (3, 32, 32)])
@pytest.mark.parametrize("make", [structure_preserving, stain_preserving])
def test_a_shape_that_does_not_fit_is_refused(make: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="sides multiples of 8 and at least 32"):
        make(torch.zeros(shape), generators(1), ViewSettings())


def test_each_image_needs_its_generator() -> None:
    with pytest.raises(ShapeError, match="one generator per image, got 1 for 2 images"):
        stain_preserving(tissue(2), generators(1), ViewSettings())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cutoff": (0.04, 0.01)}, "upside down"),
        ({"pixel_shuffle": 0, "low_pass": 0, "strong_elastic": 0}, "one of them must happen"),
        ({"patchwise": 1.2}, "less than or equal to 1"),
        ({"patches_per_side": 3}, "1, 2, 4, 6 or 8"),
        ({"shuffle_px": {}}, "patch sides of 2 px or more"),
        ({"shuffle_px": {8: 0}}, "odds above 0"),
        ({"hed": 1}, "Extra inputs"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ViewSettings.model_validate(settings)
