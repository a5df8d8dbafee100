"""Facts about our own recipe: its terms written out, and norms that bare glass cannot disturb."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.losses.similarity import ssim
from restain.methods.base import Method, Progress
from restain.methods.registered import Registered, RegisteredConfig
from restain.networks.norm import freeze, instance_norms

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]


@pytest.fixture
def method(build: Build) -> Registered:
    method = build("registered")
    assert isinstance(method, Registered)
    return method


def test_the_losses_are_what_the_documentation_says(
    method: Registered, draw_pair: DrawPair, progress: Progress
) -> None:
    pair, config = draw_pair(0, 1, dtype=torch.float64), method.config
    method.double().eval()
    still = {
        name: torch.optim.SGD(optimizer.param_groups[0]["params"], lr=0.0)
        for name, optimizer in method.optimizers().items()
    }
    losses = method.step(pair, still, progress)
    with torch.no_grad():
        virtual = method.generator(pair.he)
        real = method.discriminator(torch.cat([pair.he, pair.ihc], 1))
        fake = method.discriminator(torch.cat([pair.he, virtual], 1))
    similarity = ssim((virtual + 1) / 2, (pair.ihc + 1) / 2).mean()
    assert_close(losses["discriminator/gan"], ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2)
    assert_close(losses["generator/gan"], config.lambda_gan * ((fake - 1) ** 2).mean())
    assert_close(losses["generator/l1"], config.lambda_l1 * (virtual - pair.ihc).abs().mean())
    density, wanted = (-torch.log10((images.clamp_min(2 / 255 - 1) + 1) / 2) for images in (virtual, pair.ihc))
    assert_close(losses["generator/density"], config.lambda_density * ((density - wanted) ** 2).mean())
    assert_close(losses["generator/ssim"], config.lambda_ssim * (1 - similarity))


def test_norms_go_by_the_batch_at_first_and_by_what_they_have_collected_later(
    method: Registered, draw_pair: DrawPair
) -> None:
    """Every batch is seen once; afterwards, a step sees what staining will give."""
    optimizers = method.optimizers()
    norms = [layer for layer in method.generator.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms
    for step in range(3):
        method.step(draw_pair(0, 1), optimizers, Progress(0, step, 6, 1))
    collected = [layer.running_mean.clone() for layer in norms if layer.running_mean is not None]
    pair = draw_pair(2, 3)
    with torch.no_grad():
        virtual = method.eval().generator(pair.he)
    losses = method.train().step(pair, optimizers, Progress(0, 3, 6, 1))
    assert {int(layer.num_batches_tracked) for layer in norms if layer.num_batches_tracked is not None} == {3}
    for layer, before in zip(norms, collected, strict=True):
        assert_close(layer.running_mean, before, rtol=0, atol=0)
    assert_close(losses["generator/l1"], method.config.lambda_l1 * (virtual - pair.ihc).abs().mean())


def test_glass_far_away_changes_nothing(method: Registered, draw_pair: DrawPair) -> None:
    """Instance norm fails this: the mean of the whole image enters every pixel."""
    generator = method.product().double().eval()
    assert not instance_norms(generator)
    tissue = draw_pair(0, size=192, dtype=torch.float64).he
    with_glass = tissue.clone()
    with_glass[..., 96 + generator.halo_px :] = 0.9
    with torch.no_grad():
        assert_close(generator(tissue)[..., :96], generator(with_glass)[..., :96])
        assert_close(freeze(generator)(tissue), generator(tissue))
        assert not torch.allclose(generator(tissue)[..., 96:], generator(with_glass)[..., 96:])


def test_a_first_step_moves_the_weights_by_little_of_their_size() -> None:
    """With weights drawn at 0.02 times Xavier the first step of Adam would be a tenth of a weight and more."""
    torch.manual_seed(0)
    method = Registered(RegisteredConfig(width=8, blocks=1, discriminator_width=8))
    for network, rate in (
        (method.generator, method.config.lr),
        (method.discriminator, method.config.discriminator_lr),
    ):
        for name, weight in network.named_parameters():
            if weight.ndim == 4:
                assert rate < 0.02 * weight.std(), name
