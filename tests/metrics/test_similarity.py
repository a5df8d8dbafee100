"""SSIM and PSNR: equal to an independent library and to their definitions, with the limits anyone can check."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.metrics.similarity import LUMA, ROUNDING, psnr, ssim, ssim_grey


def pairs(count: int = 3, height: int = 37, width: int = 52, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Smooth colourful images and noisy versions of them, from 8-bit values."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 7, generator=generator)
    real = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    noise = torch.randn(real.shape, generator=generator)
    virtual = (real + torch.linspace(0.02, 0.2, count).view(-1, 1, 1, 1) * noise).clamp(0, 1)
    return (virtual * 255).round() / 255, (real * 255).round() / 255


def as_array(image: Tensor) -> np.ndarray:
    return image.double().permute(1, 2, 0).numpy()


def test_ssim_of_colour_images_equals_scikit_image() -> None:
    virtual, real = pairs()
    expected = [
        structural_similarity(
            as_array(v), as_array(r), data_range=1, channel_axis=-1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for v, r in zip(virtual, real, strict=True)
    ]  # fmt: skip
    assert_close(ssim(virtual, real), torch.tensor(expected), rtol=0, atol=2e-6, check_dtype=False)


def test_ssim_of_grey_images_equals_scikit_image() -> None:
    virtual, real = pairs(seed=1)
    expected = [
        structural_similarity(
            as_array(v) @ LUMA, as_array(r) @ LUMA, data_range=1, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for v, r in zip(virtual, real, strict=True)
    ]  # fmt: skip
    assert_close(ssim_grey(virtual, real), torch.tensor(expected), rtol=0, atol=2e-6, check_dtype=False)


def test_psnr_equals_scikit_image() -> None:
    virtual, real = pairs(seed=2)
    expected = [
        peak_signal_noise_ratio(as_array(r), as_array(v), data_range=1) for v, r in zip(virtual, real, strict=True)
    ]
    assert_close(psnr(virtual, real), torch.tensor(expected), rtol=0, atol=1e-4, check_dtype=False)


def test_ssim_equals_its_definition_by_loops() -> None:
    virtual, real = (images[:1, :1, :14, :13].double() for images in pairs())
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    values = []
    for y in range(14 - 10):
        for x in range(13 - 10):
            v, r = (images[0, 0, y : y + 11, x : x + 11].numpy() for images in (virtual, real))
            mean_v, mean_r = (weights * v).sum(), (weights * r).sum()
            variance_v, variance_r = (weights * (v - mean_v) ** 2).sum(), (weights * (r - mean_r) ** 2).sum()
            covariance = (weights * (v - mean_v) * (r - mean_r)).sum()
            values.append(
                (2 * mean_v * mean_r + 1e-4) * (2 * covariance + 9e-4)
                / ((mean_v**2 + mean_r**2 + 1e-4) * (variance_v + variance_r + 9e-4))
            )  # fmt: skip
    assert_close(ssim(virtual, real).item(), float(np.mean(values)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("metric", [ssim, ssim_grey, psnr])
def test_a_batch_equals_its_images_one_by_one_and_order_does_not_matter(metric) -> None:  # noqa: ANN001
    virtual, real = pairs()
    together = metric(virtual, real)
    assert_close(together, torch.cat([metric(virtual[i : i + 1], real[i : i + 1]) for i in range(3)]))
    assert_close(together, metric(real, virtual))
    assert torch.all(together.diff() < 0), "more noise must score lower"


def test_equal_images_score_one_and_what_eight_bits_can_tell() -> None:
    _, real = pairs()
    assert_close(ssim(real, real), torch.ones(3))
    assert_close(ssim_grey(real, real), torch.ones(3))
    assert_close(psnr(real, real), torch.full((3,), 58.92), rtol=0, atol=0.01)


def test_the_most_that_psnr_can_be_is_the_error_of_rounding_to_eight_bits() -> None:
    images = torch.rand(4, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    error = ((images * 255).round() / 255 - images).square().mean().item()
    assert_close(error, ROUNDING, rtol=0.02, atol=0)
    assert_close(psnr(images, images + 2 * math.sqrt(ROUNDING)).mean().item(), 58.92 - 6.02, rtol=0, atol=0.01)


def test_psnr_of_a_constant_error_is_its_logarithm() -> None:
    real = torch.full((1, 3, 8, 8), 0.5)
    assert_close(psnr(real + 0.1, real).item(), 20.0, rtol=0, atol=1e-4)
    assert_close(psnr(real + 0.25, real).item(), -20 * math.log10(0.25), rtol=0, atol=1e-4)


@given(st.integers(0, 2**31), st.integers(11, 20), st.integers(11, 20))
def test_ssim_lies_between_minus_one_and_one(seed: int, height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    virtual, real = torch.rand(2, 2, 3, height, width, generator=generator)
    assert torch.all(ssim(virtual, real).abs() <= 1)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="same shape"):
        psnr(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))
    with pytest.raises(ShapeError, match="window of 11 px; an image of 16×10 px"):
        ssim(torch.zeros(1, 3, 10, 16), torch.zeros(1, 3, 10, 16))
