"""VSMT's step is that of its published code, and doing each piece of work once changes nothing, one step or many."""

import copy
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.testing import assert_close

from restain.data.pairs import Pair
from restain.methods.base import Method, Progress
from restain.methods.vsmt import Vsmt, VsmtConfig, method, spatial
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier

Build = Callable[..., Method]
DrawPair = Callable[..., Pair]
Numbers = dict[str, Tensor]

WEIGHTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
HEAD = 8
"""Entries of each tensor that the file holds."""
TURN = {"sampler_in_alignment": ("sampler", 0), "sampler_in_generator": ("sampler", 1)}
"""The sampler learns twice in a step."""


@pytest.fixture
def numbers(golden: Callable[[str], dict[str, NDArray[Any]]]) -> Numbers:
    return {key: torch.from_numpy(np.asarray(value)) for key, value in golden("vsmt_step_width4").items()}


def image(golden: Numbers, name: str) -> Tensor:
    return golden[f"image/{name}"].double() / 127.5 - 1


def parts(vsmt: Vsmt) -> dict[str, nn.Module]:
    """All networks under the names of the file."""
    modulator = vsmt.spatial.modulator
    assert modulator is not None
    found = {name: part for name, part in vsmt.named_children() if name not in ("tasks", "spatial", "fusion")}
    found |= {"modulator": modulator.layers, "modulator_head": modulator.head}
    found |= dict(vsmt.tasks.named_children())
    for level in ("block1", "block5"):
        found |= {f"fusion_{level}_{name}": part for name, part in vsmt.fusion[level].named_children()}
    return found


@torch.no_grad()
def load(golden: Numbers, name: str, network: nn.Module) -> list[Tensor]:
    """Give a network the published weights; returns its tensors in the order of the file."""
    tensors = []
    layers = [layer for layer in network.modules() if isinstance(layer, WEIGHTED)]
    assert f"weight/{name}/{len(layers):02d}/weight" not in golden
    for number, layer in enumerate(layers):
        key, own = f"weight/{name}/{number:02d}", dict(layer.named_parameters()) | dict(layer.named_buffers())
        for theirs, names in {
            "weight": ("weight", "parametrizations.weight.original"),
            "bias": ("bias",),
            "u": ("parametrizations.weight.0._u",),
            "v": ("parametrizations.weight.0._v",),
        }.items():
            known = [own[each] for each in names if each in own]
            assert len(known) == int(f"{key}/{theirs}" in golden), f"{key}/{theirs}"
            for tensor in known:
                tensor.copy_(golden[f"{key}/{theirs}"])
            tensors += known if theirs in ("weight", "bias") else []
    return tensors


def heads(tensors: list[Tensor]) -> Tensor:
    rows = torch.full((len(tensors), HEAD), torch.nan, dtype=torch.float64)
    for row, tensor in zip(rows, tensors, strict=True):
        row[: min(HEAD, tensor.numel())] = tensor.detach().flatten()[:HEAD]
    return rows


def watched(optimizers: dict[str, Optimizer], gradients: dict[tuple[int, int], Tensor]) -> dict[str, Optimizer]:
    """Let optimisers write down the gradients that they step by: by weight, and the how-manieth time."""
    for optimizer in optimizers.values():

        def note(optimizer: Optimizer, *given: object) -> None:
            for weight in optimizer.param_groups[0]["params"]:
                turn = sum(1 for known, _ in gradients if known == id(weight))
                gradients[id(weight), turn] = weight.grad.clone() if weight.grad is not None else weight * 0

        optimizer.register_step_pre_hook(note)
    return optimizers


def test_one_step_is_that_of_the_published_code(numbers: Numbers, monkeypatch: pytest.MonkeyPatch) -> None:
    config = AuxiliaryConfig(width=4)
    vsmt = Vsmt(VsmtConfig(width=4), Autoencoder(config), Classifier(config), Autoencoder(config), Classifier(config))
    vsmt.double().eval()  # no power iterations: u and v as the file has them
    tensors = {name: load(numbers, name, network) for name, network in parts(vsmt).items()}

    turns, matrices = iter(("alignment", "teacher")), []
    align = spatial.alignment_matrix

    def labels(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
        turn = next(turns)
        for own, side in zip(points, ("virtual", "reference"), strict=True):
            assert_close(own, numbers[f"regions/{turn}/{side}"].double(), rtol=1e-5, atol=1e-5)
        return torch.stack([numbers[f"labels/{turn}/{side}"].long() for side in ("virtual", "reference")])

    def matrix(*given: Tensor) -> Tensor:
        matrices.append(align(*given))
        return matrices[-1]

    monkeypatch.setattr(spatial, "spherical_kmeans", labels)
    monkeypatch.setattr(spatial, "alignment_matrix", matrix)
    places = {tap: numbers[f"positions/{tap}"].long() for tap in method.NCE_TAPS}
    monkeypatch.setattr(method, "sample_positions", lambda *given: places)
    views = image(numbers, "positive_view"), image(numbers, "negative_view")
    monkeypatch.setattr(method, "draw_views", lambda *given: views)
    gradients: dict[tuple[int, int], Tensor] = {}
    pair = Pair(image(numbers, "he"), image(numbers, "ihc"), torch.tensor([0]), torch.tensor([0]), ("a",))
    progress = Progress(0, step=19_001, steps=280_000, steps_per_epoch=4000)
    losses = vsmt.step(pair, watched(vsmt.optimizers(), gradients), progress)

    expected = {key.removeprefix("loss/"): value for key, value in numbers.items() if key.startswith("loss/")}
    assert losses.keys() == expected.keys()
    for key, loss in losses.items():
        assert_close(loss, expected[key], rtol=1e-6, atol=0, msg=lambda text, key=key: f"{key}: {text}")
    for found, turn in zip(matrices, ("alignment", "teacher"), strict=True):
        assert_close(found[0], numbers[f"alignment_matrix/{turn}"], rtol=0, atol=1e-6)
    for name in [key.removeprefix("grad_norm/") for key in numbers if key.startswith("grad_norm/")]:
        network, turn = TURN.get(name, (name, 0))
        found = [gradients[id(tensor), turn] for tensor in tensors[network]]
        norms, first = numbers[f"grad_norm/{name}"], numbers[f"grad_head/{name}"]
        assert (torch.stack([each.norm() for each in found]) - norms).norm() < 1e-5 * norms.norm(), name
        assert (heads(found) - first).nan_to_num().norm() < 1e-5 * first.nan_to_num().norm(), name
        if name != "sampler_in_alignment":
            # elsewhere the gradient is rounding, and Adam's first step its sign
            told = first.abs() > 1e-6 * norms.max()
            after = numbers[f"after/{network}"]
            assert_close(heads(tensors[network])[told], after[told], rtol=0, atol=1e-7)


def twins(project: Path, build: Build, **settings: Any) -> tuple[Vsmt, Vsmt]:
    """The method and the naive one, with the same weights."""
    spec = importlib.util.spec_from_file_location("naive_vsmt", project / "tests" / "methods" / "naive_vsmt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["naive_vsmt"] = module
    spec.loader.exec_module(module)
    ours = build("vsmt", **settings).double().eval()  # power iterations of spectral norm would count the passes
    assert isinstance(ours, Vsmt)
    naive = copy.deepcopy(ours)
    naive.__class__ = module.NaiveVsmt
    return ours, naive


def test_a_step_equals_one_that_runs_every_pass_naively(
    project: Path, build: Build, draw_pair: DrawPair, progress: Progress
) -> None:
    pair = draw_pair(0, 1, dtype=torch.float64)
    ours, naive = twins(project, build)
    losses = ours.step(pair, ours.optimizers(), progress)
    expected = naive.step(pair, naive.optimizers(), progress)
    assert losses.keys() == expected.keys()
    for key, loss in losses.items():
        assert_close(loss, expected[key], msg=lambda text, key=key: f"{key}: {text}")
    for (name, weight), other in zip(ours.named_parameters(), naive.parameters(), strict=True):
        # where the true gradient is 0, as for a bias before a norm, Adam turns rounding into a move of its own
        told = slice(None) if weight.grad is None else weight.grad.abs() > 1e-7
        assert_close(weight[told], other[told], atol=1e-6, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_a_run_of_steps_does_not_drift_from_the_naive_one(project: Path, build: Build, draw_pair: DrawPair) -> None:
    """Across a copy of D into D', by gradient descent, whose steps do not turn rounding into signs."""
    ours, naive = twins(project, build, ramp_epochs=2, ramp_power=1, positions=8)
    descents = [
        {name: torch.optim.SGD(each.param_groups[0]["params"], lr=0.02) for name, each in one.optimizers().items()}
        for one in (ours, naive)
    ]
    for step in range(97, 102):
        pair, now = draw_pair(step, size=40, dtype=torch.float64), Progress(0, step, 200, 50)
        found, expected = (one.step(pair, own, now) for one, own in zip((ours, naive), descents, strict=True))
        assert_close(found, expected, rtol=1e-8, atol=1e-10)
    for (name, weight), other in zip(ours.named_parameters(), naive.parameters(), strict=True):
        assert_close(weight, other, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("step", "copied"), [(0, True), (1, False), (99, False), (200, True)])
def test_the_second_discriminator_gets_the_weights_of_the_first_and_keeps_its_moments(
    step: int, copied: bool, build: Build, draw_pair: DrawPair
) -> None:
    vsmt = build("vsmt")
    assert isinstance(vsmt, Vsmt)
    optimizers = vsmt.optimizers()
    pair, same = draw_pair(0), {}
    vsmt.step(pair, optimizers, Progress(0, 50, 1000, 100))
    moments = optimizers["guided_discriminator"].state_dict()["state"]
    assert moments

    def compare(optimizer: Optimizer, *given: object) -> None:
        pairs = zip(vsmt.discriminator.parameters(), vsmt.guided_discriminator.parameters(), strict=True)
        same["weights"] = all(torch.equal(*weights) for weights in pairs)

    optimizers["alignment"].register_step_pre_hook(compare)
    vsmt.step(pair, optimizers, Progress(0, step, 1000, 100))
    assert same == {"weights": copied}
    assert {int(each["step"]) for each in optimizers["guided_discriminator"].state_dict()["state"].values()} == {2}
