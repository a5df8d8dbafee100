"""A few steps on one drawn pair lower, term by term, what each method asks of its images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from restain.data.pairs import Pair
from restain.data.phantom import PhantomSettings
from restain.data.phantom import draw_pair as draw_phantom
from restain.image import to_tensor
from restain.methods import METHODS
from restain.methods.base import Method, Progress

STEPS, LONGER = 8, {"vsmt": 20}

LEARNERS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "reconstruct": ("reconstruct", {}, {"autoencoder/l2"}),
    "classify": ("classify", {}, {"classifier/cross_entropy"}),
    "segment": ("segment", {"lr": 1e-2}, {"segmenter/cross_entropy", "segmenter/dice"}),
    "pix2pix": ("pix2pix", {}, {"generator/l1"}),
    "cyclegan": (
        "cyclegan",
        {},
        {"generator/cycle", "generator/cycle_he", "generator/identity", "generator/identity_he"},
    ),
    "pyramidp2p": ("pyramidp2p", {}, {f"generator/l1_{size}" for size in (1, 2, 4, 8)}),
    "tdkstain": ("tdkstain", {}, {"generator/l1", "generator/dab", "generator/nuclei", "estimator/l2"}),
    "cut": ("cut", {}, {"generator/nce"}),
    "fastcut": ("cut", {"fast": True}, {"generator/nce"}),
    "asp": (
        "asp",
        {"lr": 5e-4},  # four times that overshoots at some seeds
        {"generator/nce", "generator/pyramid", "generator/asp"},
    ),
    "pspstain": (
        "pspstain",
        {"structure_scales": 2, "lr": 5e-4},  # four times that overshoots at some seeds
        {"generator/nce", "generator/pyramid", "generator/structure"}
        | {f"generator/protein_{level}" for level in ("mean", "histogram", "blocks")},
    ),
    "simgan": (
        "simgan",
        {"lambda_transport": 1e3},  # the authors' weight is for more places
        {"generator/nce", "generator/correlation", "generator/transport"},
    ),
    "registered": ("registered", {}, {"generator/l1", "generator/ssim", "generator/density"}),
    "vsmt": (
        "vsmt",
        {"width": 4, "lambda_spread": 0},  # spread outweighs all others until the contrast is right
        {"alignment/consistency", "alignment/preservation", "alignment/pyramid", "generator/pyramid"},
    ),
}
"""By name: the method, its settings, its own terms; adversarial ones may rise, because both sides learn."""

WHOLE = {"pix2pix", "tdkstain"}
"""Networks for which a smaller crop is too small."""


def drawn(size: int, *seeds: int) -> Pair:
    """The middle of drawn tiles, px."""
    tiles = [draw_phantom(seed, PhantomSettings(size_px=64)) for seed in seeds]
    part = (..., slice((64 - size) // 2, (64 + size) // 2), slice((64 - size) // 2, (64 + size) // 2))
    he, ihc = (torch.cat([to_tensor(getattr(tile, side)) for tile in tiles])[part] for side in ("he", "ihc"))
    index = torch.arange(len(tiles))
    density = (ihc[:, :1] + 1) / 2  # of whatever: something that can be seen in the IHC
    return Pair(he, ihc, grade=index + 1, index=index, names=tuple(map(str, seeds)), density=density)


def test_every_method_is_here() -> None:
    assert {method for method, _, _ in LEARNERS.values()} == METHODS.keys()


@pytest.mark.parametrize("name", LEARNERS)
def test_some_steps_lower_its_own_terms(name: str, build: Callable[..., Method]) -> None:
    method_name, settings, asked = LEARNERS[name]
    steps = LONGER.get(name, STEPS)
    method = build(method_name, **{"lr": 2e-3} | settings)
    pair = drawn(64 if name in WHOLE else 40, *((5, 6) if name == "simgan" else (5,)))
    optimizers = method.optimizers()
    torch.manual_seed(0)  # dropout
    history = [method.step(pair, optimizers, Progress(0, step, steps, steps)) for step in range(steps)]
    for term in asked:
        first, last = (sum(losses[term].item() for losses in part) for part in (history[:2], history[-2:]))
        assert last < 0.95 * first, term
