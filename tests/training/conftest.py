"""A data set of noise, small enough to train on in a blink, and the recipes that do."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from restain.image import save_image, to_uint8
from restain.training import Recipe, fit, load_recipe
from restain.training.toml import merged, write_toml

SMALL: dict[str, dict[str, Any]] = {
    "reconstruct": {"data": {"crop_px": 16}, "model": {"width": 1}},
    "classify": {"data": {"crop_px": 32}, "model": {"width": 1}},
    "segment": {"data": {"crop_px": 32}, "model": {"width": 1}},
    "pix2pix": {"data": {"crop_px": 32}, "model": {"width": 2, "depth": 4}},
    "cyclegan": {"data": {"crop_px": 32}, "model": {"width": 2, "blocks": 1, "pool": 3}},
    "pyramidp2p": {"data": {"crop_px": 32}, "model": {"width": 2, "blocks": 1}},
    "tdkstain": {"data": {"crop_px": 32}, "model": {"width": 2, "blocks": 1, "scales": 1}},
    "cut": {"data": {"crop_px": 32}, "model": {"width": 2, "blocks": 5, "positions": 16}},
    "asp": {"data": {"crop_px": 36}, "model": {"width": 2, "discriminator_depth": 2, "positions": 16}},
    "pspstain": {
        "data": {"crop_px": 44},
        "model": {"width": 2, "discriminator_depth": 2, "positions": 16, "structure_scales": 3},
        "auxiliary": {"segmenter": {"training": {"steps": 2}}},
    },
    "simgan": {"data": {"crop_px": 32}, "model": {"width": 2, "discriminator_depth": 3, "positions": 16}},
    "registered": {"data": {"crop_px": 32}, "model": {"width": 2, "blocks": 1, "discriminator_width": 2}},
    "vsmt": {
        "data": {"crop_px": 64},
        "model": {"width": 2, "discriminator_depth": 2, "region_size": 4, "positions": 16, "ramp_epochs": 0},
        "auxiliary": {
            name: {"data": {"crop_px": 32}, "training": {"steps": 1}}
            for name in ("he_autoencoder", "he_classifier", "ihc_autoencoder", "ihc_classifier")
        },
    },
}
"""Settings under which each method takes a few milliseconds a step."""


@pytest.fixture(scope="session")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training pairs and two held-out ones, 72 px, in MIST layout."""
    root = tmp_path_factory.mktemp("tiles")
    draws = torch.Generator().manual_seed(0)
    for part, count in (("train", 8), ("val", 2)):
        for index in range(count):
            for side in "AB":
                coarse = torch.rand(1, 3, 5, 5, generator=draws) * 2 - 1
                image = torch.nn.functional.interpolate(coarse, size=72, mode="bilinear")
                save_image(root / f"{part}{side}" / f"tile{index}_{index % 4}+.png", to_uint8(image)[0])
    return root


Write = Callable[..., Path]


@pytest.fixture
def write_recipe(tmp_path: Path) -> Write:
    """Write a small recipe of a method; keyword arguments are sections that change it."""

    def write(name: str, /, **sections: Any) -> Path:
        training = {"steps": 6, "save_every_steps": 2, "log_every_steps": 2, "sample_every_steps": 0}
        basis = {"method": name, "data": {"batch_size": 2}, "training": training | {"precision": "float32"}}
        path = tmp_path / f"{name}.toml"
        path.write_text(write_toml(merged(merged(basis, SMALL[name]), sections)))
        return path

    return write


@pytest.fixture
def small(write_recipe: Write) -> Callable[..., Recipe]:
    """The same, as a recipe that has been read."""
    return lambda name, **sections: load_recipe(write_recipe(name, **sections))


class Killed(BaseException):
    """As abrupt as can be without ending the tests."""


@pytest.fixture
def killed_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """A context in which a training is killed in the step of this number, from 0."""

    @contextmanager
    def kill(number: int) -> Iterator[None]:
        rate_factor = fit.rate_factor

        def factor(step: int, *given: int) -> float:
            if step == number:
                raise Killed
            return rate_factor(step, *given)

        with monkeypatch.context() as patched:
            patched.setattr(fit, "rate_factor", factor)
            with pytest.raises(Killed):
                yield

    return kill
