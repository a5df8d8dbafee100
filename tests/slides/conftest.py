"""A small drawn slide, and a small generator to stain it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from restain.checkpoint import save_checkpoint
from restain.networks.generator import Generator, GeneratorConfig
from restain.slides.codec import Codec
from restain.slides.tiff import Description
from restain.slides.writer import write_slide

RGB = NDArray[np.uint8]
SIZE = (600, 430)


def draw(width: int = SIZE[0], height: int = SIZE[1], tissue: bool = True) -> RGB:
    """Grey glass; on it, right of the middle, an ellipse of pink and violet."""
    y, x = np.mgrid[:height, :width]
    rgb = np.full((height, width, 3), 240, np.uint8)
    if tissue:
        inside = ((x - 0.65 * width) / (0.25 * width)) ** 2 + ((y - 0.5 * height) / (0.3 * height)) ** 2 < 1
        violet = (np.sin(x / 5) + np.sin(y / 7) > 0.5)[..., None]
        rgb = np.where(inside[..., None], np.where(violet, (110, 70, 150), (225, 150, 190)), rgb).astype(np.uint8)
    return rgb


@pytest.fixture
def drawing() -> RGB:
    """The drawing on the slide, 600 x 430 px."""
    return draw()


@pytest.fixture
def make_slide(tmp_path: Path) -> Callable[..., Path]:
    """Write a drawing without loss as a slide."""

    def make(name: str = "he.ome.tif", *, mpp: float = 8.0, tissue: bool = True) -> Path:
        rgb = draw(tissue=tissue)
        write_slide(
            tmp_path / name,
            SIZE,
            lambda x, y, width, height: rgb[y : y + height, x : x + width],
            Description("drawn", mpp),
            codec=Codec("lossless"),
            tile_px=128,
        )
        return tmp_path / name

    return make


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A generator that was never trained, at 8 µm per px."""
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=2, blocks=1))
    save_checkpoint(tmp_path / "model.safetensors", generator, method="cut", stain="HER2", mpp=8.0)
    return tmp_path / "model.safetensors"
