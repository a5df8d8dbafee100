"""Joint statistics are those of one large image, and folding them into the convolutions changes nothing."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.norm import Moments, evaluating, freeze, instance_norms, joint_statistics

IMPORTED = [
    GeneratorConfig(width=4, blocks=6),
    GeneratorConfig(width=4, blocks=9, spectral_norm=False),
    GeneratorConfig(width=4, blocks=9, spectral_norm=False, antialias=False),
    GeneratorConfig(width=4, blocks=9, spectral_norm=False, antialias=False, dropout=0.5),
]
"""The shapes with instance norm that published weight files have."""
BATCH = [GeneratorConfig(width=4, norm="batch", antialias=antialias) for antialias in (True, False)]


def generator(config: GeneratorConfig) -> Generator:
    """Weights that do not vanish, and biases."""
    network = Generator(config)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            spread = 1.5 * weight[0].numel() ** -0.5 if weight.ndim == 4 else 0.3
            weight.copy_(torch.randn(weight.shape, generator=random) * spread + (0 if weight.ndim == 4 else 0.1))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_(generator=random)
                layer.running_var.uniform_(0.5, 2, generator=random)
    return network.eval().double()


def images(count: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1)).double() * 2 - 1


def run_with_norms(network: Generator, x: Tensor, norm: Callable[[str, Tensor], Tensor]) -> Tensor:
    """The output where each instance norm is replaced by a function of its name and input."""
    hooks = [
        layer.register_forward_hook(lambda _, inputs, __, name=name: norm(name, inputs[0]))
        for name, layer in instance_norms(network).items()
    ]
    output: Tensor = network(x)
    for hook in hooks:
        hook.remove()
    return output


@torch.no_grad()
@pytest.mark.parametrize("config", IMPORTED)
def test_joint_statistics_are_those_of_the_definition(config: GeneratorConfig) -> None:
    network, tiles = generator(config), images(5)
    expected = {}

    def normalise_together(name: str, features: Tensor) -> Tensor:
        channels = features.transpose(0, 1).flatten(1)
        mean = torch.stack([channel.sum() / channel.numel() for channel in channels])
        distances = channels - mean[:, None]
        variance = distances.square().sum(1) / channels.shape[1]
        expected[name] = (mean, variance)
        return (features - mean.view(-1, 1, 1)) / (variance.view(-1, 1, 1) + 1e-5).sqrt()

    found = joint_statistics(network, list(tiles.split([1, 3, 1])))
    run_with_norms(network, tiles, normalise_together)
    assert found.keys() == expected.keys()
    for name, (mean, variance) in expected.items():
        assert_close(found[name].mean, mean)
        assert_close(found[name].variance, variance)


@torch.no_grad()
@pytest.mark.parametrize("config", IMPORTED)
def test_an_image_with_its_own_statistics_is_what_the_generator_makes_of_it(config: GeneratorConfig) -> None:
    network, image = generator(config), images(1, 48, 36)
    frozen = freeze(network, joint_statistics(network, [image]))
    assert_close(frozen(image), network(image))
    assert not instance_norms(frozen)
    assert joint_statistics(frozen, [image]) == {}


@torch.no_grad()
@pytest.mark.parametrize("config", IMPORTED)
def test_folding_is_normalising(config: GeneratorConfig) -> None:
    network, x = generator(config), images(2, 40, 32)
    random = torch.Generator().manual_seed(2)
    statistics = {
        name: Moments(*torch.rand(2, channels, generator=random).double() + 0.5)
        for name, channels in ((name, norm.num_features) for name, norm in instance_norms(network).items())
    }

    def normalise(name: str, features: Tensor) -> Tensor:
        mean, variance = (part.view(-1, 1, 1) for part in (statistics[name].mean, statistics[name].variance))
        return (features - mean) / (variance + 1e-5).sqrt()

    assert_close(freeze(network, statistics)(x), run_with_norms(network, x, normalise))


@torch.no_grad()
@pytest.mark.parametrize("config", BATCH)
def test_batch_norm_needs_no_statistics(config: GeneratorConfig) -> None:
    network, x = generator(config), images(2)
    frozen = freeze(network)
    assert_close(frozen(x), network(x))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in frozen.modules())


def test_statistics_count_each_pixel_once_and_only_what_is_inside() -> None:
    network, pixels = generator(IMPORTED[0]), images(2, 48, 48)
    split = joint_statistics(network, list(pixels.split(1)))
    whole = joint_statistics(network, [pixels])
    region = (slice(8, 40), slice(0, 20))
    inside = joint_statistics(network, [pixels], [region])
    first = next(iter(whole))
    for name, moments in whole.items():
        assert_close(split[name].mean, moments.mean)
        assert_close(split[name].variance, moments.variance)
    with torch.no_grad():
        stem = network.stages["stem"][0](network.stages["input"](pixels))[..., region[0], region[1]]
    assert_close(inside[first].mean, stem.mean((0, 2, 3)))
    assert not torch.allclose(whole[first].mean, inside[first].mean, rtol=1e-3)


def test_the_generator_is_not_changed() -> None:
    network = generator(IMPORTED[0]).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.random.get_rng_state()
    frozen = freeze(network, joint_statistics(network, [images(1)]))
    assert network.training
    assert not frozen.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state())


def test_every_part_has_its_own_mode_again_afterwards() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout()).eval())
    with evaluating(network):
        assert not any(part.training for part in network.modules())
    assert [part.training for part in network.modules()] == [True, True, False, False]


def test_no_tiles_and_foreign_statistics_are_refused() -> None:
    network = generator(IMPORTED[0])
    with pytest.raises(ShapeError, match="at least one tile"):
        joint_statistics(network, [])
    other = joint_statistics(generator(IMPORTED[1]), [images(1)])
    with pytest.raises(ShapeError, match=r"statistics are of 23 layers with .* the generator normalises 17"):
        freeze(network, other)
    with pytest.raises(ShapeError, match="statistics are of 0 layers"):
        freeze(network)
