"""One whole step of CUT, FastCUT, ASP and PSPStain equals the published code's: losses, gradients, weights after it.

The numbers and what each key means: `tests/golden/README.md`.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from restain.data.pairs import Pair
from restain.losses.protein import focal_density
from restain.methods.asp import Asp, AspConfig
from restain.methods.base import Method, Progress
from restain.methods.cut import Cut, CutConfig
from restain.methods.nce import nce_channels
from restain.methods.pspstain import PspStain, PspStainConfig
from restain.networks.sampler import Sampler
from restain.networks.segmenter import Segmenter, SegmenterConfig

Golden = Mapping[str, NDArray[Any]]
NETWORKS = ("generator", "discriminator", "sampler")


def weights(network: nn.Module) -> list[Tensor]:
    """Weight and bias of each layer in the order of the chain; the learnt weight where spectral norm divides it."""
    found = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            named = dict(layer.named_parameters())
            found += [named.get("parametrizations.weight.original", layer.weight), named["bias"]]
    return found


@torch.no_grad()
def fill(network: nn.Module, golden: Golden, name: str) -> None:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for place, (weight, bias) in enumerate(zip(weights(network)[::2], weights(network)[1::2], strict=True)):
        at = f"weight/{name}/{place:02d}/"
        weight.copy_(torch.from_numpy(golden[at + "weight"].astype(float)))
        bias.copy_(torch.from_numpy(golden[at + "bias"].astype(float)))
        if at + "u" in golden:
            spectral = layers[place].parametrizations.weight[0]  # type: ignore[union-attr,index]
            spectral._u.copy_(torch.from_numpy(golden[at + "u"]))  # type: ignore[union-attr,operator]
            spectral._v.copy_(torch.from_numpy(golden[at + "v"]))  # type: ignore[union-attr,operator]


class Kept(nn.Module):
    """Dropout that keeps what the published run kept, pair after pair."""

    def __init__(self, golden: Golden, level: int) -> None:
        super().__init__()
        self.keeps = [self.kept(golden, f"dropout/{pair}/{level}") for pair in range(2)]
        self.share = 1 - float(golden[f"dropout_rate/{level}"])

    @staticmethod
    def kept(golden: Golden, key: str) -> Tensor:
        shape = golden[key + "/shape"]
        return torch.from_numpy(np.unpackbits(golden[key])[: shape.prod()].reshape(shape).astype(float))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.keeps.pop(0) / self.share


@torch.no_grad()
def published_segmenter(golden: Golden) -> Segmenter:
    channels = tuple(len(golden[f"segmenter/down{level}/norm0/bias"]) for level in range(5))
    segmenter = Segmenter(SegmenterConfig(channels=channels))
    places = {"down0": segmenter.stem, "head": segmenter.head}
    for level in range(4):
        places |= {f"down{level + 1}": segmenter.down[level], f"up{level}": segmenter.up[3 - level]}
        places |= {f"up{level}/squeeze": segmenter.squeeze[3 - level]}
    for name, place in places.items():
        learnt = [layer for layer in place.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
        parts = ("convolution0", "norm0", "convolution1", "norm1") if len(learnt) == 4 else ("",)
        for part, layer in zip(parts, learnt, strict=True):
            at = f"segmenter/{name}/{part}".rstrip("/")
            layer.weight.copy_(torch.from_numpy(golden[at + "/weight"].astype(float)))
            if layer.bias is not None:  # a bias before a batch norm is taken away again
                layer.bias.copy_(torch.from_numpy(golden[at + "/bias"].astype(float)))
    for level, block in enumerate([segmenter.stem, *segmenter.down]):
        assert isinstance(block, nn.Sequential)
        assert isinstance(block[3], nn.Dropout)
        assert block[3].p == pytest.approx(float(golden[f"dropout_rate/{level}"]))
        block[3] = Kept(golden, level)
    return segmenter


def build(name: str, golden: Golden) -> Method:
    width = int(golden["setting/width"])
    method: Method
    if "cut" in name:
        method = Cut(CutConfig(width=width, fast=name.startswith("fast")))
    elif name.startswith("asp"):
        method = Asp(AspConfig(width=width))
    else:
        method = PspStain(PspStainConfig(width=width), published_segmenter(golden))
    narrow = Sampler(nce_channels(width), int(golden["setting/sampler_width"]), tiny_on=method.sampler.tiny_on)
    method.sampler = narrow
    method.double().train()
    for network in NETWORKS:
        fill(getattr(method, network), golden, network)
    return method


def images(golden: Golden) -> tuple[Tensor, Tensor]:
    he, ihc = (torch.from_numpy(golden["image/" + side].astype(float)) / 127.5 - 1 for side in ("he", "ihc"))
    return he, ihc


def seed_of(mirrored: bool) -> int:
    """A seed under which FastCUT mirrors the first image of the first step, or does not."""

    def mirrors(seed: int) -> bool:
        return bool(torch.rand((), generator=Progress(seed, 0, 100, 10).generator("mirror", 0)) < 0.5)

    return next(seed for seed in range(99) if mirrors(seed) == mirrored)


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# What is left: Adam turns the rounding in the gradient of a bias before a norm into a whole step, which the losses of
# the generator see; and the published MS-SSIM has a window in float32.
CASES = [
    ("cut_step_width4", 1e-12, 1e-12),
    ("fastcut_step_width4", 1e-12, 1e-12),
    ("asp_step_width4", 1e-9, 1e-9),
    ("asp_step_batch2_width4", 1e-11, 1e-10),
    ("pspstain_step_width4", 1e-11, 2e-8),
]


@pytest.mark.parametrize(("name", "of_losses", "of_gradients"), CASES)
def test_a_step_is_the_published_one(
    name: str,
    of_losses: float,
    of_gradients: float,
    golden: Callable[[str], Golden],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = golden(name)
    method = build(name, known)
    places = {key[10:]: torch.from_numpy(known[key].astype(np.int64)) for key in known if key.startswith("positions/")}
    module = type(method).__module__
    monkeypatch.setattr(f"{module}.sample_positions", lambda *_: places)
    he, ihc = images(known)
    pair = Pair(he, ihc, torch.zeros(len(he), dtype=torch.long), torch.arange(len(he)), ("a",) * len(he))
    decay_left = float(known["setting/evenness"]) if "setting/evenness" in known else 1.0
    mirrored = bool(known["setting/mirrored"])

    optimizers, gradients = method.optimizers(), dict[str, list[Tensor]]()
    rates = {optimizer: group.param_groups[0]["lr"] for optimizer, group in optimizers.items()}
    assert rates == {
        "generator": float(known["setting/lr"]),
        "discriminator": float(known["setting/discriminator_lr"]),
        "sampler": float(known["setting/sampler_lr"]),
    }

    def note(network: str) -> None:
        learnt = weights(getattr(method, network))
        gradients[network] = [weight.grad.clone() for weight in learnt if weight.grad is not None]

    for network, optimizer in optimizers.items():
        optimizer.register_step_pre_hook(lambda *_, network=network: note(network))
    virtual = method.product()(he.flip(-1) if mirrored else he).detach()[..., ::4, ::4]
    np.testing.assert_allclose(virtual, known["virtual"], atol=1e-13)
    losses = method.step(pair, optimizers, Progress(seed_of(mirrored), 0, 100, 10, decay_left))

    expected = {key[5:]: float(known[key]) for key in known if key.startswith("loss/")}
    structure = {"generator/structure"} & expected.keys()
    assert losses.keys() == expected.keys()
    assert {key: float(losses[key]) for key in expected.keys() - structure} == pytest.approx(
        {key: expected[key] for key in expected.keys() - structure}, rel=of_losses
    )
    for key in structure:
        assert float(losses[key]) == pytest.approx(expected[key], rel=1e-6)
    for network in NETWORKS:
        heads, after = known["grad_head/" + network], known["after/" + network]
        norm = np.linalg.norm([float(gradient.norm()) for gradient in gradients[network]])
        assert norm == pytest.approx(np.linalg.norm(known["grad_norm/" + network]), rel=of_gradients)
        found_heads, found_after = map(first_entries, (gradients[network], weights(getattr(method, network))))
        within = of_gradients * float(np.sqrt(np.nansum(heads**2)))
        np.testing.assert_allclose(found_heads, heads, rtol=0, atol=within, err_msg=network)
        # a bias before an instance norm has a gradient of rounding alone, of whose sign Adam makes a whole step
        told = np.abs(heads) > 1e-7 * np.nanmax(np.abs(heads))
        np.testing.assert_allclose(found_after[told], after[told], rtol=0, atol=1e-12, err_msg=network)


def first_entries(tensors: list[Tensor]) -> NDArray[np.float64]:
    """The first 8 entries of each, NaN where there are fewer."""
    table = np.full((len(tensors), 8), np.nan)
    for row, tensor in zip(table, tensors, strict=True):
        row[: min(8, tensor.numel())] = tensor.detach().flatten()[:8]
    return table


def test_the_segmenters_answer_is_the_published_one(golden: Callable[[str], Golden]) -> None:
    known = golden("pspstain_step_width4")
    method = build("pspstain_step_width4", known)
    he, ihc = images(known)
    with torch.no_grad():
        virtual = method.product()(he)
        for index in range(2):
            logits = method.segmenter(torch.stack([virtual[index], ihc[index]]))
            np.testing.assert_allclose(logits[..., ::16, ::16], known["segmenter_logits"][index], atol=1e-12)


def test_the_masks_are_the_published_ones(golden: Callable[[str], Golden]) -> None:
    known = golden("pspstain_step_width4")
    method = build("pspstain_step_width4", known)
    he, ihc = images(known)
    with torch.no_grad():
        for name, image in {"virtual": method.product()(he), "real": ihc}.items():
            mask = (focal_density(image) >= 0.68).flatten().numpy()
            assert (mask == np.unpackbits(known["mask/" + name])[: mask.size].astype(bool)).all()
