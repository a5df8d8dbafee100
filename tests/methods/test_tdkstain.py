"""Facts about TDKStain: the DAB branch, the density of nuclei, and who learns from it."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import rgb2hsv
from torch import Tensor, nn
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.errors import InputError
from restain.methods.base import Method, Progress
from restain.methods.tdkstain import SATURATION, DensityEstimator, TdkStain, TdkStainConfig, dab_alone
from restain.stains import STAIN_VECTORS, beer_lambert, from_unit, to_unit

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]


def stained(haematoxylin: Tensor, dab: Tensor) -> Tensor:
    """An IHC in [-1, 1] from densities, H x W each."""
    density = torch.stack([haematoxylin, torch.zeros_like(dab), dab])[None].double()
    return from_unit(beer_lambert(density, STAIN_VECTORS)).float()


def test_dab_alone_leaves_dab_and_takes_haematoxylin_away() -> None:
    zero, some = torch.zeros(16, 16), torch.full((16, 16), 0.6)
    glass, mask = dab_alone(stained(zero, zero))
    assert_close(glass, torch.ones_like(glass))
    assert not mask.any()
    level = {"atol": 1 / 127, "rtol": 0}  # it keeps to the levels of an image
    blue, mask = dab_alone(stained(some, zero))
    assert_close(blue, torch.ones_like(blue), **level)
    assert not mask.any()
    brown, mask = dab_alone(stained(zero, some))
    assert_close(brown, stained(zero, some), **level)
    assert (mask == 1).all()
    both, mask = dab_alone(stained(some, some))
    assert_close(both, stained(zero, some), **level)
    assert (mask == 1).all()


def test_the_mask_is_where_the_dab_is_saturated_softened_by_a_gaussian() -> None:
    dab = torch.zeros(24, 30)
    dab[:, 12:] = torch.linspace(0, 0.5, 18)
    dab[3:9, 2:7] = 0.6
    alone, mask = dab_alone(stained(torch.zeros(24, 30), dab))
    saturated = rgb2hsv(to_unit(alone[0].permute(1, 2, 0)).numpy())[..., 1] > SATURATION
    weights = np.exp(-(np.arange(-4, 5) ** 2) / (2 * 3.0**2))
    weights = np.outer(weights, weights) / np.outer(weights, weights).sum()
    mirrored = np.pad(saturated.astype(float), 4, mode="reflect")
    expected = [
        [(mirrored[row : row + 9, column : column + 9] * weights).sum() for column in range(30)] for row in range(24)
    ]
    assert 0.1 < saturated.mean() < 0.9
    assert np.abs(mask[0, 0].numpy() - np.array(expected)).max() <= 0.5 / 255 + 1e-6
    assert_close((mask * 255).round() / 255, mask)


def test_outside_the_mask_the_he_is_grey(build: Build, draw_pair: DrawPair, progress: Progress) -> None:
    method, pair, seen = build("tdkstain"), draw_pair(0, 1), []
    method.generator.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.step(pair, method.optimizers(), progress)
    _, mask = dab_alone(pair.ihc)
    assert_close(seen[0], torch.cat([pair.he, pair.he * mask]))


def test_the_estimator_reads_all_halvings_at_the_size_of_the_finest() -> None:
    torch.manual_seed(0)
    estimator, sizes = DensityEstimator(2 + 3 + 4, 6).double(), ((12, 16), (6, 8), (3, 4))
    features = [torch.randn(2, channels, *size).double() for channels, size in zip((2, 3, 4), sizes, strict=True)]
    joined = torch.cat([interpolated(each, sizes[0]) for each in features], dim=1)
    x = torch.relu(normalised(estimator.layers[0](joined)))
    for block in list(estimator.layers)[3:7]:
        first, second = (layer for layer in block.modules() if isinstance(layer, nn.Conv2d))
        inside = torch.relu(normalised(reflected(x, first)))
        x = x + normalised(reflected(inside, second))
    expected = interpolated(torch.sigmoid(estimator.layers[7](x)), (24, 32))
    assert_close(estimator(features, (24, 32)), expected)
    with torch.device("meta"):
        published = DensityEstimator(128 + 256 + 512, 128)
    assert round(sum(weight.numel() for weight in published.parameters()) / 1e6, 2) == 6.81


def reflected(x: Tensor, layer: nn.Conv2d) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), layer.weight, layer.bias)


def normalised(x: Tensor) -> Tensor:
    variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def interpolated(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corner to corner, by loops."""
    result = x.new_empty(*x.shape[:2], *size)
    for row in range(size[0]):
        for column in range(size[1]):
            y, z = (
                at * (have - 1) / (want - 1) for at, have, want in zip((row, column), x.shape[2:], size, strict=True)
            )
            top, left = min(int(y), x.shape[2] - 2), min(int(z), x.shape[3] - 2)
            down, right = y - top, z - left
            result[..., row, column] = (
                x[..., top, left] * (1 - down) * (1 - right)
                + x[..., top + 1, left] * down * (1 - right)
                + x[..., top, left + 1] * (1 - down) * right
                + x[..., top + 1, left + 1] * down * right
            )
    return result


def test_the_losses_are_the_papers(build: Build, draw_pair: DrawPair, progress: Progress) -> None:
    pair = draw_pair(0, 1, dtype=torch.float64)
    method = build("tdkstain").double()
    assert isinstance(method, TdkStain)
    still = {
        name: torch.optim.SGD(optimizer.param_groups[0]["params"], lr=0.0)
        for name, optimizer in method.optimizers().items()
    }
    losses = method.step(pair, still, progress)
    with torch.no_grad():
        virtual = method.generator(pair.he)
        stain, mask = dab_alone(pair.ihc)
        real = method.discriminator(torch.cat([pair.he, pair.ihc], 1))
        fake = method.discriminator(torch.cat([pair.he, virtual], 1))
        expected = {
            "discriminator/gan": sum(
                ((r - 1).square().mean() + f.square().mean()) / 2 for r, f in zip(real, fake, strict=True)
            ),
            "generator/gan": sum((f - 1).square().mean() for f in fake),
            "generator/l1": 10 * (virtual - pair.ihc).abs().mean(),
            "generator/dab": 10 * (method.generator(pair.he * mask) - stain).abs().mean(),
        }
        for key, images in (("estimator/l2", pair.ihc), ("generator/nuclei", virtual)):
            estimated = method.estimator(shrunk(method, images), (64, 64))
            expected[key] = 10 * (estimated - pair.density).square().mean()
    assert losses.keys() == expected.keys()
    for key, loss in losses.items():
        assert_close(loss, torch.as_tensor(expected[key]), msg=lambda text, key=key: f"{key}: {text}")


def test_the_generator_learns_of_nuclei_by_what_it_makes_and_by_what_it_reads(
    build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    pair = draw_pair(0, 1, dtype=torch.float64)
    method = build("tdkstain", lambda_l1=0, lambda_dab=0).double()
    assert isinstance(method, TdkStain)
    before = copy.deepcopy(method)
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD(getattr(method, name).parameters(), lr=1.0 if name == "generator" else 0.0)
        for name in ("generator", "discriminator", "estimator")
    }
    method.step(pair, optimizers, progress)
    virtual = before.generator(pair.he)
    found = before.estimator(shrunk(before, virtual), (64, 64))
    passed = [(score - 1).square().mean() for score in before.discriminator(torch.cat([pair.he, virtual], 1))]
    assert pair.density is not None
    (sum(passed) + 10 * (found - pair.density).square().mean()).backward()
    for (name, weight), moved in zip(before.generator.named_parameters(), method.generator.parameters(), strict=True):
        assert weight.grad is not None
        assert_close(moved, weight - weight.grad, msg=lambda text, name=name: f"{name}: {text}")


def shrunk(method: TdkStain, images: Tensor) -> list[Tensor]:
    return [method.generator.features(images, [f"shrink{n}"])[f"shrink{n}"] for n in (1, 2, 3)]


def test_the_estimator_learns_the_density_of_an_image() -> None:
    torch.manual_seed(0)
    estimator, features = DensityEstimator(16, 8), [torch.randn(1, 16, 16, 16)]
    target = F.avg_pool2d(features[0][:, :1], 5, 1, 2).sigmoid()
    optimizer = torch.optim.Adam(estimator.parameters(), 1e-2)
    for _ in range(100):
        loss = (estimator(features, (16, 16)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * target.var()


def test_pairs_without_densities_are_refused(build: Build, draw_pair: DrawPair, progress: Progress) -> None:
    method, pair = build("tdkstain"), dataclasses.replace(draw_pair(0), density=None)
    with pytest.raises(InputError, match="tile0 has none; load pairs with nuclei"):
        method.step(pair, method.optimizers(), progress)


def test_the_authors_settings() -> None:
    config = TdkStainConfig()
    assert (config.width, config.blocks, config.downsamplings, config.scales) == (64, 9, 3, 3)
    assert (config.lambda_l1, config.lambda_dab, config.lambda_nuclei) == (10, 10, 10)
