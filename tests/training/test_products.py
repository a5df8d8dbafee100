"""What any method leaves behind stains: in one piece, in tiles, and on a slide."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from restain.checkpoint import load_checkpoint, load_generator
from restain.methods import METHODS
from restain.networks.segmenter import Segmenter
from restain.networks.stainer import Stainer
from restain.slides.codec import Codec
from restain.slides.reader import open_slide
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.staining.images import stain
from restain.staining.model import load_model
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide
from restain.training import Recipe, train

Small = Callable[..., Recipe]
STAINERS = sorted(METHODS.keys() - {"reconstruct", "classify", "segment"})
"""All others make features for them."""


@pytest.fixture(scope="session")
def he() -> NDArray[np.uint8]:
    """Smooth pink and violet, 200 x 136 px."""
    coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(7)) * 0.5 + 0.4
    image = torch.nn.functional.interpolate(coarse, size=(136, 200), mode="bicubic").clamp(0, 1)
    return (image[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


@pytest.mark.parametrize("name", STAINERS)
def test_what_is_trained_stains_in_tiles_and_on_a_slide(
    name: str, small: Small, tiles: Path, tmp_path: Path, he: NDArray[np.uint8]
) -> None:
    checkpoint = train(small(name, data={"mpp": 8.0}), tiles, tmp_path / "run", steps=1)
    generator = load_generator(checkpoint)
    assert isinstance(generator, Stainer)
    assert not generator.training

    whole = stain(generator, he)
    tiled = stain(generator, he, tile_px=64)
    assert whole.shape == tiled.shape == he.shape
    assert np.abs(whole.astype(int) - tiled).mean() < 2  # up to the statistics' rounding, and a U-Net's borders

    slide, out = tmp_path / "he.ome.tif", tmp_path / "virtual.ome.tif"
    write_slide(
        slide, (200, 136), lambda x, y, width, height: he[y : y + height, x : x + width], Description("he", 8.0),
        codec=Codec("lossless"), tile_px=128,
    )  # fmt: skip
    settings = SlideSettings(tile_px=128, codec=Codec("lossless"), tissue_mask=False)
    report = stain_slide(load_model(checkpoint), slide, out, settings)
    assert report.megapixels >= 200 * 136 / 1e6
    with open_slide(out) as virtual:
        assert virtual.size == (200, 136)


def test_a_model_of_resized_tiles_tells_their_scale(small: Small, tiles: Path, tmp_path: Path) -> None:
    recipe = small("reconstruct", data={"mpp": 0.5, "resize_px": 36})  # of 72
    assert load_checkpoint(train(recipe, tiles, tmp_path / "run", steps=1))[1].mpp == 1.0


def test_a_segmenters_checkpoint_gives_the_segmenter_back(small: Small, tiles: Path, tmp_path: Path) -> None:
    checkpoint = train(small("segment"), tiles, tmp_path / "run", steps=2)
    network, info = load_checkpoint(checkpoint)
    assert isinstance(network, Segmenter)
    assert (info.kind, info.method, info.network["channels"]) == ("segmenter", "segment", [1, 1, 2, 4, 8])
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["method"]
    assert any("running_mean" in key for key in saved)
    assert all(torch.equal(tensor, saved[f"segmenter.{key}"]) for key, tensor in network.state_dict().items())
