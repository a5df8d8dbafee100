"""Every shape of generator stains in tiles and on slides: U-Nets and three downsamplings beside the usual two."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import torch

from restain.checkpoint import save_checkpoint
from restain.errors import InputError
from restain.image import RGB, to_tensor, to_uint8
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.norm import freeze, instance_norms
from restain.networks.stainer import Stainer
from restain.networks.unet import UNet, UNetConfig
from restain.slides.codec import Codec
from restain.staining.images import stain
from restain.staining.model import load_model
from restain.staining.policies import POLICIES, NormPolicy, SharedNorm
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide
from restain.staining.statistics import load_statistics


def photo(height: int, width: int) -> RGB:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def lively(network: Stainer) -> Stainer:
    """Weights that let a pixel matter far away, and batch norms that have seen an image."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim == 4:
                torch.nn.init.orthogonal_(weight, 1.5)
        network(to_tensor(photo(64, 64)))
    return network.eval()


UNET = lively(UNet(UNetConfig(width=4, depth=3, dropout=0.0)))
DEEP = lively(
    Generator(GeneratorConfig(width=2, blocks=1, downsamplings=3, norm="batch", antialias=False, spectral_norm=False))
)
INSTANCE = Generator(GeneratorConfig(width=2, blocks=1, downsamplings=3, antialias=False, spectral_norm=False)).eval()


@pytest.mark.parametrize("network", [UNET, DEEP], ids=["unet", "deep"])
@pytest.mark.parametrize(("height", "width"), [(120, 90), (61, 130), (9, 8)])
def test_tiles_equal_the_whole(network: Stainer, height: int, width: int) -> None:
    rgb = photo(height, width)
    whole, tiled = (stain(network, rgb, tile_px=tile_px) for tile_px in (256, 16))
    assert whole.shape == rgb.shape
    difference = np.abs(whole.astype(int) - tiled)
    assert difference.max() <= 1, "at most the rounding of a grey level"
    assert (difference > 0).mean() < 0.01


def test_a_smaller_halo_of_a_unet_is_not_enough() -> None:
    rgb = photo(96, 96)
    assert np.abs(stain(UNET, rgb).astype(int) - stain(UNET, rgb, tile_px=16, halo_px=0)).max() > 1


@pytest.mark.parametrize("norm", POLICIES.values())
def test_a_unet_has_no_statistics_to_share(norm: NormPolicy) -> None:
    rgb = photo(60, 70)
    assert not instance_norms(UNET)
    assert np.array_equal(stain(UNET, rgb, tile_px=16, norm=norm), stain(UNET, rgb, tile_px=16))


@torch.no_grad()
def test_a_frozen_unet_is_a_copy_unless_it_is_frozen_already() -> None:
    frozen = freeze(UNET)
    x = to_tensor(photo(32, 32))
    assert frozen is not UNET
    assert torch.equal(frozen(x), UNET(x))
    assert freeze(frozen) is frozen


@pytest.mark.parametrize("norm", POLICIES.values())
def test_three_downsamplings_under_every_norm(norm: NormPolicy) -> None:
    rgb = photo(100, 70)
    assert stain(INSTANCE, rgb, tile_px=32, halo_px=16, norm=norm).shape == rgb.shape
    assert stain(INSTANCE, photo(8, 8)).shape == (8, 8, 3)


def test_a_tile_that_does_not_fit_the_network_is_refused() -> None:
    with pytest.raises(InputError, match=r"tile of 20 px.* expected multiples of 8"):
        stain(UNET, photo(300, 300), tile_px=20)


@pytest.mark.parametrize("network", [UNET, INSTANCE], ids=["unet", "deep"])
def test_a_slide_gives_what_one_piece_gives(
    network: Stainer, make_slide: Callable[..., Path], drawing: RGB, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "m.safetensors", network, method="pix2pix", mpp=8.0)
    model = load_model(tmp_path / "m.safetensors")
    everything = SlideSettings(tile_px=128, codec=Codec("lossless"), tissue_mask=False)
    stain_slide(model, make_slide(), tmp_path / "out.ome.tif", everything)
    statistics = load_statistics(tmp_path / "out.statistics.safetensors", model=model.sha256)
    padded = np.pad(drawing, ((0, -drawing.shape[0] % 8), (0, 0), (0, 0)), mode="reflect")
    with torch.no_grad():
        expected = to_uint8(freeze(model.generator, statistics)(to_tensor(padded)))[0][: drawing.shape[0]]
    with openslide.OpenSlide(tmp_path / "out.ome.tif") as slide:
        found = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-2
    region = replace(
        everything, region=(201, 99, 250, 240), norm=SharedNorm.read(tmp_path / "out.statistics.safetensors")
    )
    stain_slide(model, tmp_path / "he.ome.tif", tmp_path / "part.ome.tif", region)
    with openslide.OpenSlide(tmp_path / "part.ome.tif") as slide:
        part = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    assert np.abs(part.astype(int) - found[96:339, 200:451]).max() <= 1
