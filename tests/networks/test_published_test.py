"""Facts about staining as in the published test of pix2pix and PyramidP2P."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from restain.checkpoint import load_generator, save_checkpoint
from restain.errors import InputError
from restain.image import save_image
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.norm import freeze
from restain.networks.published_test import DrawnDropout, published_test, sees_whole_images
from restain.networks.stainer import Stainer
from restain.networks.unet import UNet, UNetConfig
from restain.staining.images import stain, stain_files
from restain.staining.policies import TileNorm

Make = Callable[[], Stainer]


def unet() -> Stainer:
    return UNet(UNetConfig(width=2, depth=4))


def resnet() -> Stainer:
    return Generator(
        GeneratorConfig(width=2, blocks=2, norm="batch", antialias=False, spectral_norm=False, dropout=0.5)
    )


@pytest.fixture(params=[unet, resnet])
def network(request: pytest.FixtureRequest) -> Stainer:
    """Trained a little, so that its running statistics and weights are not those it starts with."""
    torch.manual_seed(0)
    made: Stainer = request.param().double()
    for weight in made.parameters():
        nn.init.normal_(weight, 0.3 if weight.ndim == 1 else 0.0, 0.5)
    made.train()(images(3))
    return made.eval()


def images(count: int, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1


@torch.no_grad()
def test_without_dropout_it_is_training_mode_on_one_image(network: Stainer) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    tested, trained = published_test(network), copy.deepcopy(network).train()
    for image in images(2).split(1):
        assert_close(tested(image), trained(image))
        assert not torch.allclose(tested(image), network(image), atol=1e-3)


@torch.no_grad()
def test_it_is_a_function_of_the_image_alone(network: Stainer) -> None:
    before = copy.deepcopy(network.state_dict())
    tested, batch = published_test(network), images(3)
    one_by_one = torch.cat([tested(image) for image in batch.split(1)])
    assert_close(tested(batch), one_by_one)
    assert torch.equal(tested(batch), tested(batch))
    assert torch.equal(published_test(network)(batch), tested(batch))
    assert not torch.allclose(published_test(network, seed=1)(batch), one_by_one, atol=1e-3)
    tested.train()
    assert_close(tested(batch), one_by_one)
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "the network itself stays as it was"


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    x = torch.ones(2, 64, 40, 40)
    for rate in (0.25, 0.5):
        dropped = DrawnDropout(rate, 0, "a")(x)
        assert (dropped == 0).float().mean() == pytest.approx(rate, abs=0.01)
        assert dropped.mean() == pytest.approx(1, abs=0.02)
        assert torch.equal(dropped[0], dropped[1])
        assert not torch.equal(dropped, DrawnDropout(rate, 0, "b")(x))


def test_what_has_no_fixed_statistics_is_not_frozen_or_tiled(network: Stainer, tmp_path: Path) -> None:
    tested = published_test(network.float())
    assert sees_whole_images(tested)
    assert not sees_whole_images(network)
    with pytest.raises(InputError, match="norm 'tile', or leave the published test out"):
        freeze(tested)
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    with pytest.raises(InputError, match=r"64 x 48 px is larger than a tile of 32 px, .* larger tiles"):
        stain(tested, rgb, tile_px=32)
    tiles = stain(tested, rgb[:32], tile_px=32, halo_px=0, norm=TileNorm())
    assert np.array_equal(tiles, np.concatenate([stain(tested, rgb[:32, :32]), stain(tested, rgb[:32, 32:])], axis=1))
    save_image(tmp_path / "he" / "large.png", rgb)
    save_image(tmp_path / "he" / "small.png", rgb[:32, :32])
    written, failures = stain_files(tested, [tmp_path / "he"], tmp_path / "virtual", tile_px=32)
    assert [path.name for path in written] == ["small.png"]
    (reason,) = failures.values()
    assert "large.png: 64 x 48 px is larger" in str(reason)


def test_a_checkpoint_is_loaded_for_it(network: Stainer, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network.float(), method="pix2pix")
    he = images(1).float()
    for seed in (0, 5):
        loaded = load_generator(path, as_published_test=True, seed=seed)
        assert_close(loaded(he), published_test(network, seed)(he))
        assert not any(weight.requires_grad for weight in loaded.parameters())
    save_checkpoint(path, Generator(GeneratorConfig(width=2, blocks=1)), method="cut")
    with pytest.raises(InputError, match="no batch norm"):
        load_generator(path, as_published_test=True)
