"""Tiny pairs and tiny auxiliary models for the steps of all methods."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from restain.data.pairs import Pair
from restain.methods import METHODS
from restain.methods.base import Method, Progress
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier
from restain.networks.segmenter import Segmenter, SegmenterConfig

WIDTH = 2

TINY: dict[str, dict[str, Any]] = {
    "reconstruct": {"width": WIDTH},
    "classify": {"width": WIDTH},
    "segment": {"width": WIDTH},
    "pix2pix": {"width": WIDTH, "depth": 6},
    "cyclegan": {"width": WIDTH, "blocks": 1, "pool": 3},
    "pyramidp2p": {"width": WIDTH, "blocks": 1},
    "tdkstain": {"width": WIDTH, "blocks": 1, "scales": 2},
    "cut": {"width": WIDTH, "blocks": 5, "positions": 16},
    "asp": {"width": WIDTH, "positions": 16, "discriminator_depth": 3},
    "pspstain": {"width": WIDTH, "positions": 16, "discriminator_depth": 3, "structure_scales": 3},
    "simgan": {"width": WIDTH, "positions": 16, "discriminator_depth": 3},
    "registered": {"width": WIDTH, "blocks": 1, "discriminator_width": WIDTH},
    "vsmt": {"width": WIDTH, "positions": 16, "region_size": 2, "discriminator_depth": 3, "ramp_epochs": 5},
}
"""Settings with which each method steps in a moment on 64 px."""


def auxiliary_models(width: int = WIDTH) -> dict[str, nn.Module]:
    config = AuxiliaryConfig(width=width)
    return {
        "he_autoencoder": Autoencoder(config),
        "he_classifier": Classifier(config),
        "ihc_autoencoder": Autoencoder(config),
        "ihc_classifier": Classifier(config),
        "segmenter": Segmenter(SegmenterConfig.of_width(width // 2)),
    }


@pytest.fixture
def build() -> Callable[..., Method]:
    """Build a method by name with tiny settings; the same weights every time."""

    def make(name: str, **settings: Any) -> Method:
        torch.manual_seed(0)
        method = METHODS[name]
        config = method.Config(**TINY[name] | settings)
        models = auxiliary_models(config.width) if method.auxiliary(config) else {}
        return method(config, **{name: models[name] for name in method.auxiliary(config)}).train()

    return make


@pytest.fixture
def draw_pair() -> Callable[..., Pair]:
    """Random smooth images; image `index` is the same in every batch."""

    def draw(*indices: int, size: int = 64, dtype: torch.dtype = torch.float32) -> Pair:
        def image(seed: int) -> torch.Tensor:
            coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)
            return nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1) * 2 - 1

        return Pair(
            he=torch.cat([image(2 * index) for index in indices]),
            ihc=torch.cat([image(2 * index + 1) for index in indices]),
            grade=torch.tensor([index % 4 for index in indices]),
            index=torch.tensor(indices),
            names=tuple(f"tile{index}" for index in indices),
            density=torch.cat([(image(2 * index + 1)[:, :1] + 1) / 2 for index in indices]),
        )

    return draw


@pytest.fixture
def progress() -> Progress:
    """The 8th of 100 steps."""
    return Progress(seed=0, step=7, steps=100, steps_per_epoch=2)
