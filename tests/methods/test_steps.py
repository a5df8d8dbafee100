"""What holds for the step of every method: who moves, batches, sizes, repeatability, learning."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.methods import METHODS
from restain.methods.base import Method, Progress
from restain.training.numerics import step_numerics

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]

VARIANTS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "reconstruct": ("reconstruct", {}, {"autoencoder"}),
    "classify": ("classify", {"side": "ihc"}, {"classifier"}),
    "segment": ("segment", {}, {"segmenter"}),
    "pix2pix": ("pix2pix", {}, {"generator", "discriminator"}),
    "cyclegan": ("cyclegan", {}, {"generator", "back_generator", "discriminator", "he_discriminator"}),
    "pyramidp2p": ("pyramidp2p", {}, {"generator", "discriminator"}),
    "registered": ("registered", {}, {"generator", "discriminator"}),
    "tdkstain": ("tdkstain", {}, {"generator", "discriminator", "estimator"}),
    "cut": ("cut", {}, {"generator", "discriminator", "sampler"}),
    "fastcut": ("cut", {"fast": True}, {"generator", "discriminator", "sampler"}),
}
BASE = {"generator", "discriminator", "sampler"}
VARIANTS |= {
    "asp": ("asp", {}, BASE),
    "pspstain": ("pspstain", {}, BASE),
    "pspstain corrected": ("pspstain", {"profile": "corrected"}, BASE),
    "simgan no correlation": ("simgan", {"lambda_correlation": 0}, BASE),  # which no single image has
}
FUSED = {"fusion", "guided_discriminator", "guidance_projector", "alignment_projector"}
VARIANTS |= {
    "vsmt no guidance": ("vsmt", {"guidance": False}, BASE),
    "vsmt no alignment": ("vsmt", {"alignment": "identity", "task_gap": False}, BASE | {"guidance_projector"}),
    "vsmt spatial only": (
        "vsmt",
        {"task_gap": False},
        BASE | {"spatial", "guidance_projector", "alignment_projector"},
    ),
    "vsmt task-gap only": ("vsmt", {"alignment": "identity"}, BASE | FUSED),
    "vsmt complete": ("vsmt", {}, BASE | FUSED | {"spatial"}),
    "vsmt no structure enhancement": ("vsmt", {"structure_enhancement": False}, BASE | FUSED),
    "vsmt optimal transport": ("vsmt", {"alignment": "ot"}, BASE | FUSED | {"spatial"}),
    "vsmt automatic K": ("vsmt", {"clusters": "auto"}, BASE | FUSED | {"spatial"}),
    "vsmt paper": (
        "vsmt",
        {"profile": "paper"},
        BASE | {"fusion", "guided_discriminator", "spatial"},
    ),
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], set[str]]:
    return VARIANTS[request.param]


def moved(before: Method, after: Method) -> set[str]:
    """Names of the parts whose weights differ."""
    old = dict(before.named_parameters())
    return {name.split(".")[0] for name, weight in after.named_parameters() if not torch.equal(weight, old[name])}


def test_exactly_the_expected_networks_move(
    variant: tuple[str, dict[str, Any], set[str]], build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    method, _ = stepped(variant, build, draw_pair, progress)  # which has compared
    assert all(weight.requires_grad for part in variant[2] for weight in getattr(method, part).parameters())


def check_scalars(losses: dict[str, Tensor]) -> None:
    for key, loss in losses.items():
        assert loss.ndim == 0
        assert not loss.requires_grad
        assert torch.isfinite(loss), key


def test_a_batch_gives_what_its_images_give_one_by_one(
    variant: tuple[str, dict[str, Any], set[str]], build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    name, settings, _ = variant
    if name == "pspstain":  # by name a mean over images in the `corrected` profile alone, and dropout differs
        settings = {"batch_sum": False, "segmenter_training": False} | settings
    if name == "registered":  # its norms go by the batch until then
        settings = {"batch_norm_until": 0.0} | settings

    def losses(*indices: int) -> dict[str, Tensor]:
        method = build(name, **settings).double()
        treat_images_alone(method)
        return method.step(draw_pair(*indices, dtype=torch.float64), standing_still(method), progress)

    batch, first, second = losses(3, 5), losses(3), losses(5)
    for key, loss in batch.items():
        assert_close(loss, (first[key] + second[key]) / 2, msg=lambda text, key=key: f"{key}: {text}")


def test_a_step_repeats_exactly(
    variant: tuple[str, dict[str, Any], set[str]], build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    runs = [stepped(variant, build, draw_pair, progress, again=again)[0].state_dict() for again in (False, True)]
    assert all(torch.equal(runs[0][key], runs[1][key]) for key in runs[0])


_STEPPED: dict[str, tuple[Method, dict[str, Tensor]]] = {}


def stepped(
    variant: tuple[str, dict[str, Any], set[str]],
    build: Build,
    draw_pair: DrawPair,
    progress: Progress,
    *,
    again: bool = False,
) -> tuple[Method, dict[str, Tensor]]:
    """A method after one step on one image in float32, and its losses; taken once unless `again`."""
    name, settings, expected = variant
    key = f"{name} {settings}"
    if again or key not in _STEPPED:
        method = build(name, **settings)
        before = copy.deepcopy(method)
        with step_numerics(torch.device("cpu"), False, seed=0, step=progress.step, rank=0):
            losses = method.step(draw_pair(1), method.optimizers(), progress)
        assert moved(before, method) == expected
        check_scalars(losses)
        _STEPPED[key] = method, losses
    return _STEPPED[key]


def test_a_step_in_bfloat16_comes_to_about_the_same(
    variant: tuple[str, dict[str, Any], set[str]], build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    name, settings, expected = variant
    _, expected_losses = stepped(variant, build, draw_pair, progress)
    method = build(name, **settings)
    before = copy.deepcopy(method)
    with step_numerics(torch.device("cpu"), True, seed=0, step=progress.step, rank=0):
        losses = method.step(draw_pair(1), method.optimizers(), progress)
    assert moved(before, method) == expected
    assert all(weight.dtype == torch.float32 for weight in method.parameters())
    assert losses.keys() == expected_losses.keys()
    for key, loss in losses.items():
        assert loss.dtype == torch.float32, key
        assert_close(loss, expected_losses[key], rtol=0.25, atol=0.02, msg=lambda text, key=key: f"{key}: {text}")


def test_samples_are_images(variant: tuple[str, dict[str, Any], set[str]], build: Build, draw_pair: DrawPair) -> None:
    name, settings, _ = variant
    for column in build(name, **settings).eval().sample(draw_pair(0, 1)).values():
        assert column.shape == (2, 3, 64, 64)


def standing_still(method: Method) -> dict[str, torch.optim.Optimizer]:
    """Optimisers that move nothing, so that later terms of a step see the same weights."""
    groups = {name: optimizer.param_groups[0]["params"] for name, optimizer in method.optimizers().items()}
    return {name: torch.optim.SGD(weights, lr=0.0) for name, weights in groups.items()}


def treat_images_alone(method: nn.Module) -> None:
    """No dropout, and no batch norm that looks at the whole batch."""
    for layer in method.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, nn.BatchNorm2d):
            layer.eval()


@pytest.mark.parametrize("name", METHODS)
def test_channels_last_moves_the_weights_to_the_same_places(
    name: str, build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    """By gradient descent, as Adam's first step is a sign, also where a gradient is nothing but rounding."""
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        method = build(name).double().to(memory_format=order)
        pair = draw_pair(*range(method.needs(method.config).images), dtype=torch.float64)
        descents = {
            key: torch.optim.SGD(optimizer.param_groups[0]["params"], lr=1e-2)
            for key, optimizer in method.optimizers().items()
        }
        torch.manual_seed(0)  # for dropout
        method.step(pair.to("cpu", memory_format=order), descents, progress)
        found.append(method.state_dict())
    assert_close(found[1], found[0], rtol=1e-7, atol=1e-9)
