"""The networks compute what the published code computes, given the published weights."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.testing import assert_close

from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier
from restain.networks.discriminator import Discriminator
from restain.networks.generator import Generator, GeneratorConfig

Golden = Callable[[str], dict[str, NDArray[np.float32]]]

GENERATOR = {1: "stem.0", 4: "down1", 8: "down2", 19: "up1.1", 23: "up2.1", 27: "output.1"}
AUTOENCODER = {1: "stem.1", 4: "down1.1", 7: "down2.1", 19: "up1.0", 22: "up2.0", 26: "output.1"}
CLASSIFIER = {1: "stem.1", 4: "down1.1", 7: "down2.1", 19: "shrink1.0", 22: "shrink2.0"}
TAPS = {0: "input", 4: "down1", 8: "down2", 12: "block0", 13: "block1", 15: "block3", 16: "block4", 17: "block5"}


def load(network: nn.Module, golden: dict[str, NDArray[np.float32]], names: dict[str, str]) -> nn.Module:
    """Fill `network` with the published weights; `names` maps published layers to ours."""
    state = {}
    for key, value in golden.items():
        if not key.startswith("state/") or key.endswith("filt"):
            continue
        layer, kind = key.removeprefix("state/").rsplit(".", 1)
        ours = {
            "weight": "weight",
            "bias": "bias",
            "weight_orig": "parametrizations.weight.original",
            "weight_u": "parametrizations.weight.0._u",
            "weight_v": "parametrizations.weight.0._v",
        }[kind]
        state[f"{names[layer]}.{ours}"] = torch.from_numpy(value)
    network.load_state_dict(state)
    return network.eval()


def blocks(first: int, count: int, published: tuple[int, int], ours: tuple[int, int]) -> dict[str, str]:
    return {
        f"model.{first + block}.conv_block.{there}": f"stages.block{block}.body.{here}"
        for block in range(count)
        for there, here in zip(published, ours, strict=True)
    }


def stages(names: dict[int, str]) -> dict[str, str]:
    return {f"model.{index}": f"stages.{name}" for index, name in names.items()}


@pytest.fixture(scope="module")
def published(golden: Golden) -> tuple[Generator, dict[str, Tensor]]:
    arrays = golden("generator_width8")
    generator = Generator(GeneratorConfig(width=8))
    load(generator, arrays, stages(GENERATOR) | blocks(12, 6, (1, 5), (1, 5)))
    return generator, {name: torch.from_numpy(value) for name, value in arrays.items() if "state/" not in name}


@torch.no_grad()
def test_generator_and_its_taps_equal_the_published_ones(published: tuple[Generator, dict[str, Tensor]]) -> None:
    generator, golden = published
    output, taps = generator.forward_with_features(golden["input"], TAPS.values())
    assert_close(output, golden["output"], atol=1e-5, rtol=1e-5)
    for index, tap in TAPS.items():
        assert_close(taps[tap], golden[f"tap/{index}"], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_injection_equals_the_published_one(published: tuple[Generator, dict[str, Tensor]]) -> None:
    generator, golden = published
    inject = {"block1": golden["inject_13"], "block5": golden["inject_17"]}
    guided = {13: "block1", 15: "block3", 17: "block5"}
    output, taps = generator.forward_with_features(golden["input"], guided.values(), inject=inject)
    assert_close(output, golden["output_injected"], atol=1e-5, rtol=1e-5)
    for index, tap in guided.items():
        assert_close(taps[tap], golden[f"injected_tap/{index}"], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "network", "names", "output"),
    [
        (
            "autoencoder_width8",
            Autoencoder,
            stages(AUTOENCODER) | blocks(10, 9, (1, 6), (1, 6)),
            "output",
        ),
        (
            "classifier_width8",
            Classifier,
            stages(CLASSIFIER) | blocks(10, 9, (1, 6), (1, 5)) | {"fc": "stages.logits.2"},
            "logits",
        ),
    ],
)
@torch.no_grad()
def test_auxiliary_networks_equal_the_published_ones(
    golden: Golden, name: str, network: type[Autoencoder | Classifier], names: dict[str, str], output: str
) -> None:
    arrays = golden(name)
    ours = load(network(AuxiliaryConfig(width=8)), arrays, names)
    assert isinstance(ours, Autoencoder | Classifier)
    found, taps = ours.forward_with_features(torch.from_numpy(arrays["input"]), ("block1", "block8"))
    assert_close(found, torch.from_numpy(arrays[output]), atol=1e-5, rtol=1e-5)
    assert_close(taps["block1"], torch.from_numpy(arrays["tap/11"]), atol=2e-5, rtol=1e-5)
    assert_close(taps["block8"], torch.from_numpy(arrays["tap/18"]), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_discriminator_equals_the_published_one(golden: Golden) -> None:
    arrays = golden("discriminator_width8")
    names = {f"enc.{index}": f"layers.{index}" for index in (0, 3, 7, 11, 15, 19)} | {"final_conv": "layers.22"}
    discriminator = load(Discriminator(8), arrays, names)
    found = discriminator(torch.from_numpy(arrays["input"]))
    assert_close(found, torch.from_numpy(arrays["output"]), atol=1e-5, rtol=1e-5)
