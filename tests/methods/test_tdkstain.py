"""Facts about TDKStain: the DAB branch, the density of nuclei, and who learns from it."""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from skimage.color import rgb2hsv
from torch import Tensor
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.data.phantom import PhantomSettings
from restain.data.phantom import draw_pair as draw_phantom
from restain.image import to_tensor
from restain.methods.base import Method, Progress
from restain.methods.tdkstain import (
    SATURATION,
    DensityEstimator,
    TdkStain,
    TdkStainConfig,
    box_mean,
    dab_alone,
    nuclear_density,
)
from restain.stains import STAIN_VECTORS, beer_lambert, from_unit, to_unit

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]


def stained(haematoxylin: Tensor, dab: Tensor) -> Tensor:
    """An IHC in [-1, 1] from densities, H x W each."""
    density = torch.stack([haematoxylin, torch.zeros_like(dab), dab])[None].double()
    return from_unit(beer_lambert(density, STAIN_VECTORS)).float()


def test_a_box_mean_by_loops() -> None:
    x = torch.rand(2, 1, 7, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for side in (1, 3, 4, 20):
        reach, found = side // 2, box_mean(x, side)
        for row in range(7):
            for column in range(9):
                square = x[:, :, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
                assert_close(found[:, :, row, column], square.mean(dim=(2, 3)))


def test_dab_alone_leaves_dab_and_takes_haematoxylin_away() -> None:
    zero, some = torch.zeros(16, 16), torch.full((16, 16), 0.6)
    glass, mask = dab_alone(stained(zero, zero))
    assert_close(glass, torch.ones_like(glass))
    assert not mask.any()
    blue, mask = dab_alone(stained(some, zero))
    assert_close(blue, torch.ones_like(blue), atol=1e-5, rtol=0)
    assert not mask.any()
    brown, mask = dab_alone(stained(zero, some))
    assert_close(brown, stained(zero, some), atol=1e-5, rtol=0)
    assert mask.all()
    both, mask = dab_alone(stained(some, some))
    assert_close(both, stained(zero, some), atol=1e-5, rtol=0)
    assert mask.all()


def test_the_mask_is_where_the_blurred_dab_is_saturated() -> None:
    dab = torch.zeros(24, 24)
    dab[:, 12:] = torch.linspace(0, 0.5, 12)
    alone, mask = dab_alone(stained(torch.zeros(24, 24), dab))
    light = box_mean(to_unit(alone), 5)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(mask[0, 0].numpy(), rgb2hsv(light)[..., 1] > SATURATION)
    assert 0 < mask.float().mean() < 0.5


def test_density_is_the_share_of_each_cell_that_is_nucleus() -> None:
    haematoxylin = torch.full((96, 96), 0.05)
    haematoxylin[16:32, 40:48] = 0.6
    density = nuclear_density(stained(haematoxylin, torch.zeros(96, 96)), nucleus_px=13, cell_px=8)
    nuclear = torch.zeros(1, 1, 96, 96)
    nuclear[..., 15:33, 40:48] = nuclear[..., 16:32, 39:49] = 1  # the mean over 3 px makes it one px wider
    assert_close(density, F.avg_pool2d(nuclear, 8))
    assert density[0, 0, 2:4, 5].tolist() == [1, 1]


def test_neither_glass_nor_even_stain_nor_dab_has_nuclei() -> None:
    zero, some = torch.zeros(64, 64), torch.full((64, 64), 0.5)
    spots = torch.zeros(64, 64)
    spots[20:30, 20:30] = 0.8
    for ihc in (stained(zero, zero), stained(some, zero), stained(zero, spots)):
        assert nuclear_density(ihc, 13, 8).max() == 0


def test_density_knows_nuclei_of_the_phantom() -> None:
    pair = draw_phantom(3, PhantomSettings(size_px=128))
    density = nuclear_density(to_tensor(pair.ihc_aligned), 12, 8)
    assert 0.02 < density.mean() < 0.6
    assert 0 <= density.min() <= density.max() <= 1
    turned = nuclear_density(to_tensor(pair.ihc_aligned).mT, 12, 8)
    assert_close(turned.mT, density, atol=0.02, rtol=0)


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
        masked = torch.where(mask, pair.he, 1.0)
        density = nuclear_density(pair.ihc, 13, 8)
        real = method.discriminator(torch.cat([pair.he, pair.ihc], 1))
        fake = method.discriminator(torch.cat([pair.he, virtual], 1))
        expected = {
            "discriminator/gan": sum(
                ((r - 1).square().mean() + f.square().mean()) / 2 for r, f in zip(real, fake, strict=True)
            ),
            "generator/gan": sum((f - 1).square().mean() for f in fake),
            "generator/l1": 10 * (virtual - pair.ihc).abs().mean(),
            "generator/dab": 10 * (method.generator(masked) - stain).abs().mean(),
        }
        for key, images, weight in (("estimator/l2", pair.ihc, 1), ("generator/nuclei", virtual, 10)):
            features = method.generator.features(images, ["shrink3"])["shrink3"]
            expected[key] = weight * (method.estimator(features) - density).square().mean()
    assert losses.keys() == expected.keys()
    for key, loss in losses.items():
        assert_close(loss, torch.as_tensor(expected[key]), msg=lambda text, key=key: f"{key}: {text}")


def test_the_generator_learns_of_nuclei_through_the_virtual_ihc_alone(
    build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    pair = draw_pair(0, dtype=torch.float64)
    method = build("tdkstain", lambda_l1=0, lambda_dab=0).double()
    assert isinstance(method, TdkStain)
    before = copy.deepcopy(method)
    optimizers: dict[str, torch.optim.Optimizer] = {
        name: torch.optim.SGD(getattr(method, name).parameters(), lr=1.0 if name == "generator" else 0.0)
        for name in ("generator", "discriminator", "estimator")
    }
    method.step(pair, optimizers, progress)
    virtual = before.generator(pair.he)
    encoder = copy.deepcopy(before.generator).requires_grad_(False)
    found = before.estimator(encoder.features(virtual, ["shrink3"])["shrink3"])
    passed = [(score - 1).square().mean() for score in before.discriminator(torch.cat([pair.he, virtual], 1))]
    (sum(passed) + 10 * (found - nuclear_density(pair.ihc, 13, 8)).square().mean()).backward()
    for (name, weight), moved in zip(before.generator.named_parameters(), method.generator.parameters(), strict=True):
        assert weight.grad is not None
        assert_close(moved, weight - weight.grad, msg=lambda text, name=name: f"{name}: {text}")


def test_the_estimator_learns_the_density_of_an_image() -> None:
    torch.manual_seed(0)
    estimator, features = DensityEstimator(64), torch.randn(1, 64, 8, 8)
    target = features[:, :1].sigmoid()
    optimizer = torch.optim.Adam(estimator.parameters(), 1e-2)
    for _ in range(100):
        loss = (estimator(features) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * target.var()


def test_the_authors_settings() -> None:
    config = TdkStainConfig()
    assert (config.width, config.blocks, config.downsamplings, config.scales) == (64, 9, 3, 3)
    assert (config.lambda_l1, config.lambda_dab, config.lambda_nuclei) == (10, 10, 10)
