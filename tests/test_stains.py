from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from skimage import color
from torch import Tensor
from torch.testing import assert_close

from restain import stains
from restain.errors import InputError

Golden = Callable[[str], dict[str, NDArray[np.float32]]]


def images(seed: int = 0, count: int = 2, side: int = 6) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_published_colour_deconvolution(golden: Golden) -> None:
    expected = {name: torch.from_numpy(array) for name, array in golden("hed").items()}
    hed = stains.rgb_to_hed(stains.to_unit(expected["rgb"]))
    assert_close(hed, expected["hed"], atol=1e-5, rtol=0)
    assert_close(stains.from_unit(stains.hed_to_rgb(hed)), expected["back"], atol=1e-5, rtol=0)


@given(st.integers(0, 10**6))
def test_colour_deconvolution_agrees_with_scikit_image(seed: int) -> None:
    rgb = images(seed)
    hed = stains.rgb_to_hed(rgb)
    assert_close(hed.numpy(), color.rgb2hed(rgb.numpy(), channel_axis=1))
    assert_close(stains.hed_to_rgb(hed).numpy(), color.hed2rgb(hed.numpy(), channel_axis=1))


@given(st.integers(0, 10**6))
def test_what_is_stained_can_be_measured_again(seed: int) -> None:
    hed = images(seed) / 5
    assert_close(stains.rgb_to_hed(stains.hed_to_rgb(hed)), hed)


def test_no_stain_lets_all_light_through() -> None:
    assert_close(stains.beer_lambert(torch.zeros(1, 2, 3, 3), torch.rand(2, 3)), torch.ones(1, 3, 3, 3))
    assert stains.optical_density(torch.ones(1, 3, 2, 2)).abs().max() == 0
    assert stains.dab_density(torch.ones(1, 3, 2, 2)).abs().max() == 0


def test_densities_add_where_light_multiplies() -> None:
    first, second, vectors = images(1)[:, :2], images(2)[:, :2], images(3)[0, :2, 0, :3]
    together = stains.beer_lambert(first + second, vectors)
    assert_close(together, stains.beer_lambert(first, vectors) * stains.beer_lambert(second, vectors))
    assert_close(stains.optical_density(together), torch.einsum("nshw,sc->nchw", first + second, vectors))


def test_black_is_as_dense_as_density_gets() -> None:
    assert_close(stains.optical_density(torch.zeros(1, 3, 2, 2)), torch.full((1, 3, 2, 2), 6.0))


def test_dab_is_told_from_haematoxylin() -> None:
    amounts = torch.zeros(1, 3, 1, 2)
    amounts[0, 0, 0, 0] = 0.8  # haematoxylin on the left
    amounts[0, 2, 0, 1] = 0.4  # DAB on the right
    rgb = stains.beer_lambert(amounts, stains.STAIN_VECTORS)
    assert_close(stains.dab_density(rgb), torch.tensor([[[[0.0, 0.4]]]]), atol=1e-5, rtol=0)
    assert stains.positive_mask(rgb).flatten().tolist() == [False, True]
    assert stains.positive_area_fraction(rgb).tolist() == [0.5]
    assert stains.positive_area_fraction(rgb, threshold=0.5).tolist() == [0.0]


def test_more_pixels_of_a_higher_grade_are_positive(shared: Path) -> None:
    files = sorted((shared / "data" / "bci-her2" / "IHC").glob("*.png"), key=lambda file: file.stem.split("_")[-1])
    rgb = [torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)[None] / 255 for file in files]
    zero, one, two, three = (float(stains.positive_area_fraction(image)) for image in rgb)
    assert max(zero, one) < 0.05 < two < three


@given(st.integers(0, 10**6), st.floats(0.05, 0.7))
def test_brightness_becomes_mid_grey_per_image(seed: int, level: float) -> None:
    rgb = images(seed) * 0.5 * level + level / 2  # no pixel is twice as bright as the mean, so none is clamped
    normal = stains.to_unit(stains.normalise_brightness(stains.from_unit(rgb)))
    assert_close(normal.mean(dim=(1, 2, 3)), torch.full((2,), 0.5, dtype=torch.float64))
    assert_close(normal / rgb, (normal / rgb)[:, :1, :1, :1].expand_as(rgb))
    one_by_one = [stains.normalise_brightness(stains.from_unit(image[None])) for image in rgb]
    assert_close(stains.from_unit(normal), torch.cat(one_by_one))


def test_brightness_stays_in_range() -> None:
    light = torch.zeros(1, 3, 8, 8)
    light[..., 0, 0] = 1
    normal = stains.normalise_brightness(stains.from_unit(light))
    assert normal.min() >= -1
    assert normal.max() == 1
    assert_close(stains.normalise_brightness(-torch.ones(1, 3, 4, 4)), -torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize("formula", [stains.rgb_to_hed, stains.hed_to_rgb, stains.normalise_brightness])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_gradients_are_finite_in_black_and_in_white(formula: Callable[[Tensor], Tensor], level: float) -> None:
    rgb = torch.full((1, 3, 4, 4), level, requires_grad=True)
    formula(rgb).sum().backward()
    assert rgb.grad is not None
    assert rgb.grad.isfinite().all()


def test_half_precision_is_raised_and_double_kept() -> None:
    rgb = images().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert stains.rgb_to_hed(rgb.bfloat16()).dtype == torch.float32
        inside = stains.rgb_to_hed(rgb)
    assert torch.equal(inside, stains.rgb_to_hed(rgb))
    assert stains.rgb_to_hed(rgb.double()).dtype == torch.float64


def rendered(vectors: Tensor, seed: int = 0, side: int = 96) -> Tensor:
    """Haematoxylin everywhere, DAB in places, in between both: 1 x 3 x H x W."""
    random = torch.Generator().manual_seed(seed)
    amounts = torch.rand(1, 2, side, side, generator=random, dtype=torch.float64) * 0.8
    amounts[:, 1, : side // 2] = 0
    amounts[:, 0, -side // 4 :] *= 0.02
    return stains.beer_lambert(amounts, vectors[[0, 2]])


@given(
    turns=st.lists(st.floats(-0.08, 0.08), min_size=6, max_size=6),
    seed=st.integers(0, 100),
)
def test_stain_vectors_are_found_in_what_was_stained_with_them(turns: list[float], seed: int) -> None:
    true = stains.STAIN_VECTORS.clone()
    true[[0, 2]] += torch.tensor(turns, dtype=torch.float64).view(2, 3)
    true = true / true.norm(dim=1, keepdim=True)
    image = rendered(true, seed)
    found = stains.estimate_stain_vectors(image[0].flatten(1).T)
    assert_close(found.norm(dim=1), torch.ones(3, dtype=torch.float64))
    assert (found[[0, 2]] * true[[0, 2]]).sum(1).min() > 0.999  # two and a half degrees
    assert found[1, 1] > 0


def test_reference_stains_leave_reference_images_alone_and_turn_others_into_them() -> None:
    image = rendered(stains.STAIN_VECTORS)
    assert_close(stains.with_reference_stains(image, stains.STAIN_VECTORS), image)
    other = torch.tensor([[0.60, 0.64, 0.48], [0.10, 0.98, 0.15], [0.21, 0.50, 0.84]], dtype=torch.float64)
    assert_close(stains.with_reference_stains(rendered(other), other), image)


def test_one_stain_alone_has_no_two_vectors() -> None:
    amounts = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    haematoxylin = stains.beer_lambert(amounts, stains.STAIN_VECTORS[:1])
    for pixels in (haematoxylin[0].flatten(1).T, torch.ones(5000, 3), torch.zeros(0, 3)):
        with pytest.raises(InputError, match="do not show two stains"):
            stains.estimate_stain_vectors(pixels)
