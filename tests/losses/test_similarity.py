"""MS-SSIM as a loss: its definition, its limits, and gradients that are finite wherever training may come."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.losses.similarity import SCALE_WEIGHTS, ms_ssim, ms_ssim_smallest_px, ssim, ssim_loss
from restain.metrics import similarity as metrics
from restain.randomness import generator


def images(seed: int, size: int = 176, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    draws = generator(seed, "images")
    coarse = torch.rand(2, 3, 9, 9, generator=draws, dtype=torch.float64)
    real = F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    return (real + noise * torch.randn(real.shape, generator=draws, dtype=torch.float64)).clamp(0, 1), real


def ms_ssim_by_convolution(virtual: Tensor, real: Tensor, scales: int) -> Tensor:
    """Wang et al. 2003, equation 7, with the window as one two-dimensional convolution per channel."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    row = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = (torch.outer(row, row) / row.sum() ** 2)[None, None]

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x.flatten(0, 1).unsqueeze(1), window).view(*x.shape[:2], x.shape[2] - 10, x.shape[3] - 10)

    exponents = [weight / sum(SCALE_WEIGHTS[:scales]) * sum(SCALE_WEIGHTS) for weight in SCALE_WEIGHTS[:scales]]
    result = torch.ones(virtual.shape[:2], dtype=torch.float64)
    for scale, exponent in enumerate(exponents):
        if scale:
            virtual, real = F.avg_pool2d(virtual, 2), F.avg_pool2d(real, 2)
        v, r = mean(virtual), mean(real)
        covariance = mean(virtual * real) - v * r
        variances = mean(virtual**2) - v**2 + mean(real**2) - r**2
        value = (2 * covariance + 0.0009) / (variances + 0.0009)
        if scale == scales - 1:
            value = value * (2 * v * r + 0.0001) / (v**2 + r**2 + 0.0001)
        result = result * value.mean((2, 3)) ** exponent
    return result.mean(1)


@pytest.mark.parametrize("scales", [1, 3, 5])
def test_ms_ssim_by_its_definition(scales: int) -> None:
    virtual, real = images(0)
    assert_close(ms_ssim(virtual, real, scales), ms_ssim_by_convolution(virtual, real, scales))


def test_ms_ssim_limits() -> None:
    virtual, real = images(1)
    assert_close(ms_ssim(real, real), torch.ones(2, dtype=torch.float64))
    assert_close(ms_ssim(virtual, real), ms_ssim(real, virtual))
    assert_close(ms_ssim(virtual, real, scales=1), ssim(virtual, real) ** sum(SCALE_WEIGHTS), rtol=0.02, atol=0)
    assert (ms_ssim(1 - real, real) < 0.1).all()


def test_smaller_images_hold_fewer_scales() -> None:
    assert [ms_ssim_smallest_px(scales) for scales in (1, 3, 4, 5)] == [11, 41, 81, 161]
    virtual, real = images(2, size=41)
    assert ms_ssim(virtual, real, scales=3).shape == (2,)
    with pytest.raises(ShapeError, match="MS-SSIM needs sides of 81 px; an image of 41×41 px is too small"):
        ms_ssim(virtual, real, scales=4)


@pytest.mark.parametrize("kind", ["noisy", "equal", "inverted", "constant"])
def test_gradients_are_finite(kind: str) -> None:
    virtual, real = (image.float() for image in images(3, size=48))
    virtual = {"noisy": virtual, "equal": real, "inverted": 1 - real, "constant": torch.full_like(real, 0.5)}[kind]
    virtual = virtual.clone().requires_grad_()
    ms_ssim(virtual, real, scales=3).mean().backward()
    assert virtual.grad is not None
    assert virtual.grad.isfinite().all()


def test_half_precision_is_raised() -> None:
    virtual, real = (image.float() for image in images(4, size=48))
    found = ms_ssim(virtual.bfloat16(), real.bfloat16(), 3)
    assert found.dtype == torch.float32
    assert_close(found, ms_ssim(virtual.bfloat16().float(), real.bfloat16().float(), 3))
    assert math.isclose(float(found.mean()), float(ms_ssim(virtual, real, 3).mean()), abs_tol=0.01)


def ssim_by_loops(virtual: Tensor, real: Tensor) -> Tensor:
    """Wang et al. 2004, equation 13, window by window, for one channel H x W in [0, 1]."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    row = torch.exp(-offsets.square() / (2 * 1.5**2))
    weights = torch.outer(row, row) / row.sum() ** 2
    values = []
    for top in range(virtual.shape[0] - 10):
        for left in range(virtual.shape[1] - 10):
            v, r = (x[top : top + 11, left : left + 11] for x in (virtual, real))
            mean_v, mean_r = (weights * v).sum(), (weights * r).sum()
            variance_v, variance_r = (weights * (v - mean_v) ** 2).sum(), (weights * (r - mean_r) ** 2).sum()
            covariance = (weights * (v - mean_v) * (r - mean_r)).sum()
            luminance = (2 * mean_v * mean_r + 0.0001) / (mean_v**2 + mean_r**2 + 0.0001)
            values.append(luminance * (2 * covariance + 0.0009) / (variance_v + variance_r + 0.0009))
    return torch.stack(values).mean()


def test_ssim_as_a_loss_by_its_definition_gradient_included() -> None:
    virtual, real = (image[:, :2, :14, :13].clone().requires_grad_() for image in images(6, size=16))
    by_loops = torch.stack([ssim_by_loops(v, r) for n in range(2) for v, r in zip(virtual[n], real[n], strict=True)])
    loss = ssim_loss(virtual * 2 - 1, real * 2 - 1)
    assert_close(loss, 1 - by_loops.mean())
    for found, expected in zip(
        torch.autograd.grad(loss, (virtual, real)),
        torch.autograd.grad(1 - by_loops.mean(), (virtual, real)),
        strict=True,
    ):
        assert_close(found, expected)


def test_ssim_as_a_loss_has_its_limits() -> None:
    virtual, real = (image * 2 - 1 for image in images(7, size=32))
    assert_close(ssim_loss(real, real), torch.zeros((), dtype=torch.float64))
    assert_close(ssim_loss(virtual, real), ssim_loss(real, virtual))
    assert_close(ssim_loss(virtual, real), 1 - metrics.ssim((virtual + 1) / 2, (real + 1) / 2).mean())
    assert ssim_loss(-real, real) > 1 > ssim_loss(virtual, real)
    assert ssim_loss(virtual.bfloat16(), real.bfloat16()).dtype == torch.float32
