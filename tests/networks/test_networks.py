"""Facts about the networks: sizes, stages, how far a pixel reaches, independence of the images of a batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from restain.errors import ConfigError
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier
from restain.networks.blocks import BlurDown, BlurUp, Staged, binomial
from restain.networks.discriminator import Discriminator
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.normalisation import InstanceNorm
from restain.networks.resnet import ResNet18
from restain.networks.sampler import Sampler, sample_positions


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize(
    ("network", "millions"),
    [(Generator, 7.84), (Discriminator, 2.79), (Autoencoder, 11.38), (Classifier, 14.54)],
)
def test_published_sizes(network: type[nn.Module], millions: float) -> None:
    with torch.device("meta"):
        size = sum(weight.numel() for weight in network().parameters())
    assert round(size / 1e6, 2) == millions


@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(width=4),
        GeneratorConfig(width=4, blocks=9, spectral_norm=False),
        GeneratorConfig(width=4, blocks=9, norm="batch", antialias=False, spectral_norm=False, dropout=0.5),
    ],
)
def test_generators_keep_the_size(config: GeneratorConfig) -> None:
    assert Generator(config).eval()(images(1, 3, 36, 52)).shape == (1, 3, 36, 52)


class Recorder(Staged):
    """Adds 1, 2, 4, 8 in turn and remembers what ran."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[str] = []
        self.stages = nn.ModuleDict({name: _Add(name, 2**power, self.ran) for power, name in enumerate("abcd")})


class _Add(nn.Module):
    def __init__(self, name: str, amount: int, ran: list[str]) -> None:
        super().__init__()
        self.name, self.amount, self.ran = name, amount, ran

    def forward(self, x: Tensor) -> Tensor:
        self.ran.append(self.name)
        return x + self.amount


def test_features_stop_at_the_last_tap() -> None:
    network = Recorder()
    found = network.features(torch.zeros(1), ["c", "a"])
    assert {tap: value.item() for tap, value in found.items()} == {"a": 1, "c": 7}
    assert network.ran == ["a", "b", "c"]


def test_the_part_after_a_stage_runs_alone() -> None:
    network = Recorder()
    output, found = network.forward_with_features(
        torch.zeros(1), ["b"], inject={"b": torch.full((1,), 100.0)}, after="b"
    )
    assert network.ran == ["c", "d"]
    assert output.item() == 112
    assert found["b"].item() == 100, "a tap includes what is injected there"


def test_an_unknown_tap_is_named() -> None:
    with pytest.raises(ConfigError, match="no stage 'block77'"):
        Recorder().features(torch.zeros(1), ["block77"])


@torch.no_grad()
def test_continuing_after_block1_is_the_same_as_running_it_all() -> None:
    generator = Generator(GeneratorConfig(width=4)).eval()
    x, guidance = images(2, 3, 32, 32), images(2, 16, 8, 8)
    whole, taps = generator.forward_with_features(x, ["block1"])
    assert_close(generator.forward_with_features(taps["block1"], (), after="block1")[0], whole)
    guided = generator(x, inject={"block1": guidance})
    assert_close(
        generator.forward_with_features(taps["block1"], (), inject={"block1": guidance}, after="block1")[0], guided
    )
    assert not torch.allclose(guided, whole)


@pytest.mark.parametrize(
    "network",
    [
        Generator(GeneratorConfig(width=4)),
        Autoencoder(AuxiliaryConfig(width=4)),
        Classifier(AuxiliaryConfig(width=4)),
        Discriminator(4, depth=3),
    ],
    ids=lambda network: type(network).__name__,
)
@torch.no_grad()
def test_a_batch_is_its_images_one_by_one(network: nn.Module) -> None:
    network.eval().double()
    x = images(3, 3, 64, 64).double()
    assert_close(network(x), torch.cat([network(image[None]) for image in x]))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("blocks", [6, 9])
def test_no_pixel_reaches_further_than_the_halo(antialias: bool, blocks: int) -> None:
    config = GeneratorConfig(width=2, blocks=blocks, antialias=antialias, spectral_norm=False)
    generator = Generator(config).double()
    for layer in generator.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(layer.weight, 1e-2)
    for name, module in list(generator.named_modules()):
        if isinstance(module, InstanceNorm):
            parent, _, child = name.rpartition(".")
            setattr(generator.get_submodule(parent), child, nn.Identity())
    side = 2 * generator.halo_px + 32  # further than the halo would be seen
    x = torch.rand(1, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    reaches = []
    for place in range(side // 2, side // 2 + generator.multiple):
        (gradient,) = torch.autograd.grad(generator(x)[0, 0, place, place], x)
        touched = gradient[0].abs().sum(dim=(0, 1)).nonzero().flatten()
        reaches += [place - int(touched[0]), int(touched[-1]) - place]
    assert max(reaches) <= generator.halo_px
    assert max(reaches) > generator.halo_px - 16, "a halo much wider than needed is work for nothing"


@torch.no_grad()
def test_blurred_resampling_keeps_a_constant() -> None:
    x = torch.full((1, 3, 8, 8), 0.7)
    assert_close(BlurDown()(x), torch.full((1, 3, 4, 4), 0.7))
    assert_close(BlurUp()(x), torch.full((1, 3, 16, 16), 0.7))


@torch.no_grad()
def test_doubling_is_a_transposed_binomial_blur() -> None:
    x = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    kernel = 4 * binomial(4).expand(3, 1, -1, -1)
    assert_close(kernel[0, 0, 0] * 16, torch.tensor([1.0, 3.0, 3.0, 1.0]))
    blurred = torch.nn.functional.conv_transpose2d(padded, kernel, stride=2, padding=2, groups=3)[:, :, 1:-1, 1:-1]
    assert_close(BlurUp()(x), blurred)


def test_sampler_gives_unit_vectors_from_the_same_places_for_all_images() -> None:
    sampler = Sampler({"a": 3, "b": 5}, width=8)
    features = {"a": images(2, 3, 4, 6), "b": images(2, 5, 2, 2)}
    positions = sample_positions(features, torch.Generator().manual_seed(0), count=6)
    assert {tap: len(places) for tap, places in positions.items()} == {"a": 6, "b": 4}
    assert all(len(places.unique()) == len(places) for places in positions.values())
    found = sampler(features, positions)
    assert found["a"].shape == (2, 6, 8)
    assert_close(found["a"].norm(dim=-1), torch.ones(2, 6), rtol=0, atol=1e-3)
    row, column = divmod(int(positions["a"][0]), 6)
    alone = torch.nn.functional.normalize(sampler.mlps["a"](features["a"][1, :, row, column]), dim=0)
    assert_close(found["a"][1, 0], alone, rtol=0, atol=1e-3)  # but for the 1e-7 beside a short projection


def test_the_sampler_adds_its_tiny_number_to_the_length_or_to_each_entry() -> None:
    features, positions = {"a": 1e-3 * images(1, 3, 2, 2).double()}, {"a": torch.tensor([3, 1])}
    for tiny_on in ("length", "entries"):
        sampler = Sampler({"a": 3}, width=4, tiny_on=tiny_on).double()
        torch.nn.init.normal_(sampler.mlps["a"][2].bias, std=1e-7)
        for place, found in zip((3, 1), sampler(features, positions)["a"][0], strict=True):
            z = sampler.mlps["a"](features["a"][0].flatten(1)[:, place]).tolist()
            if tiny_on == "length":
                length = sum(entry**2 for entry in z) ** 0.5 + 1e-7
            else:
                length = sum((entry + 1e-7) ** 2 for entry in z) ** 0.5
            assert found.tolist() == pytest.approx([entry / length for entry in z])
    assert not Sampler({"a": 3}, width=4)({"a": torch.zeros(1, 3, 2, 2)}, positions)["a"].any()


def test_resnet_has_the_public_names_and_size() -> None:
    network = ResNet18(1000)
    assert sum(weight.numel() for weight in network.parameters()) == 11_689_512
    names = network.state_dict()
    assert {"conv1.weight", "layer2.0.downsample.1.running_var", "layer4.1.bn2.bias", "fc.bias"} <= set(names)
    assert len(names) == 122
    assert network.eval()(images(2, 3, 64, 64)).shape == (2, 1000)
