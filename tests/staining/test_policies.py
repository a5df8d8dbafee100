"""With shared statistics a tile comes out as it would in the whole image, whatever the tiling and the company."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom
from torch import Tensor, nn
from torch.testing import assert_close

from restain.checkpoint import fingerprint
from restain.errors import InputError, MissingError
from restain.image import to_tensor, to_uint8
from restain.metrics.seams import seams
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.norm import Moments, freeze, instance_norms, joint_statistics
from restain.slides.tiling import Box, tiles
from restain.staining.dense import DenseStatistics, dense_statistics, stain_densely
from restain.staining.images import stain
from restain.staining.policies import DenseNorm, SharedNorm, SlideNorm, TileNorm, check_norm, find_norm
from restain.staining.statistics import choose, load_statistics, sample_statistics, save_statistics


def generator(*, antialias: bool) -> Generator:
    """A small one with weights that do not vanish, and biases."""
    network = Generator(GeneratorConfig(width=8, blocks=1, antialias=antialias, spectral_norm=False))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                fan_in = layer.weight[0].numel()
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=random) * (1.5 / fan_in**0.5))
                assert layer.bias is not None
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=random) * 0.3)
    return network.eval()


def tissue(height: int, width: int, noise: float) -> np.ndarray:
    """Colours that change from one side to the other, with some detail."""
    random = np.random.default_rng(0)
    image = np.full((height, width, 3), 130.0)
    for count, amplitude in ((4, 200), (24, 40)):
        coarse = random.uniform(-0.5, 0.5, (count, count, 3)) * amplitude
        image += zoom(coarse, (height / count, width / count, 1), order=1)
    return np.clip(image + random.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


GENERATORS = [generator(antialias=True), generator(antialias=False)]
IMAGE = tissue(256, 320, noise=20)
SMOOTH = tissue(192, 256, noise=0)
STATISTICS = [joint_statistics(network, [to_tensor(IMAGE)]) for network in GENERATORS]


@torch.no_grad()
@pytest.mark.parametrize("which", [0, 1])
def test_order_batch_and_neighbours_make_no_difference(which: int) -> None:
    """True for windows in which every layer sees more than 20,480 values: for smaller ones torch has other kernels."""
    frozen = freeze(GENERATORS[which], STATISTICS[which])
    boxes = [Box(x, y, 112, 112) for y in (0, 72, 144) for x in (0, 100, 208)]
    windows = torch.cat([to_tensor(IMAGE[box.slices]) for box in boxes])
    alone = torch.cat([frozen(window[None]) for window in windows])
    order = torch.tensor([3, 8, 0, 5, 1, 7, 2, 6, 4])
    for batch in (2, 4, 9):
        together = torch.cat([frozen(some) for some in windows[order].split(batch)])
        assert torch.equal(together, alone[order])


@given(
    tile_px=st.integers(8, 40).map(lambda quarter: 4 * quarter),
    left=st.integers(0, 20).map(lambda quarter: 4 * quarter),
    top=st.integers(0, 20).map(lambda quarter: 4 * quarter),
    which=st.integers(0, 1),
)
@settings(max_examples=10)
def test_tile_size_and_offset_make_no_more_than_rounding(tile_px: int, left: int, top: int, which: int) -> None:
    network, statistics = GENERATORS[which], STATISTICS[which]
    halo = network.halo_px
    whole = stain(network, IMAGE, norm=SharedNorm(statistics))[top:, left:]
    tiled = stain(network, IMAGE[top:, left:], tile_px=tile_px, norm=SharedNorm(statistics))
    inside = np.s_[halo if top else 0 :, halo if left else 0 :]
    difference = np.abs(whole[inside].astype(int) - tiled[inside])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("which", [0, 1])
def test_an_image_that_is_sampled_whole_is_stained_as_in_one_piece(which: int) -> None:
    network = GENERATORS[which]
    untiled = to_uint8(network(to_tensor(SMOOTH)))[0]
    slide = stain(network, SMOOTH, tile_px=64)
    difference = np.abs(untiled.astype(int) - slide)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_tiles_show_where_each_has_its_own_statistics_and_nowhere_else() -> None:
    """Blurred resampling: without it, a generator that was not trained draws a texture that outdoes the seams."""
    network = GENERATORS[0]
    untiled = stain(network, SMOOTH)
    untiled_seam, slide_seam, tile_seam, dense_seam = (
        seams(to_tensor(image), 64).item()
        for image in (
            untiled,
            *(stain(network, SMOOTH, tile_px=64, norm=norm) for norm in (SlideNorm(), TileNorm(), DenseNorm())),
        )
    )
    assert abs(slide_seam - untiled_seam) < 0.01
    assert tile_seam > 2 * untiled_seam
    assert dense_seam < 0.7 * tile_seam


def test_statistics_of_all_tiles_are_those_of_the_whole_image() -> None:
    cut = list(tiles((320, 256), 96, GENERATORS[0].halo_px))
    found = sample_statistics(GENERATORS[0], cut, lambda box: IMAGE[box.slices], count=len(cut))
    for name, moments in STATISTICS[0].items():
        assert_close(found[name].mean, moments.mean, rtol=1e-4, atol=1e-4)
        assert_close(found[name].variance, moments.variance, rtol=1e-4, atol=1e-4)


def test_the_sample_is_spread_and_repeatable() -> None:
    cut = [tile for tile in tiles((4096, 4096), 64, 0) if tile.core.x < 1024 or tile.core.y < 1024]
    chosen = choose(cut, 28)
    assert chosen == choose(cut[::-1], 28)
    assert chosen != choose(cut, 28, seed=1)
    assert len({(tile.core.x // 1024, tile.core.y // 1024) for tile in chosen}) == 7, "four in each of seven blocks"
    assert choose(cut[:5], 28) == cut[:5]
    assert len(set(chosen)) == 28


def test_given_statistics_serve_every_image() -> None:
    network, statistics = GENERATORS[0], STATISTICS[0]
    small = IMAGE[:64, :64]
    with torch.no_grad():
        expected = to_uint8(freeze(network, statistics)(to_tensor(small)))[0]
    assert np.array_equal(stain(network, small, norm=SharedNorm(statistics)), expected)
    assert not np.array_equal(stain(network, small), expected)


def test_statistics_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    save_statistics(path, STATISTICS[0], model="aa")
    found = find_norm(str(path))
    assert isinstance(found, SharedNorm)
    assert (found.model, found.path) == ("aa", path)
    assert found.statistics.keys() == STATISTICS[0].keys()
    for name, moments in STATISTICS[0].items():
        assert torch.equal(found.statistics[name].mean, moments.mean)
        assert torch.equal(found.statistics[name].variance, moments.variance)
    check_norm(found, "aa")
    with pytest.raises(InputError, match=r"s\.safetensors was made with another model"):
        check_norm(found, "bb")
    with pytest.raises(InputError, match="made with another model"):
        load_statistics(path, model="bb")
    with pytest.raises(InputError, match="'slyde': expected slide, dense, tile"):
        find_norm("slyde")
    with pytest.raises(MissingError, match=r"none.safetensors does not exist"):
        find_norm("none.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cut short"):
        load_statistics(path)


@pytest.mark.parametrize("change", ["nan", "infinity", "negative", "one bit", "no variance", "another shape"])
def test_statistics_that_were_changed_are_refused(tmp_path: Path, change: str) -> None:
    name, moments = next(iter(STATISTICS[0].items()))
    path = tmp_path / "s.safetensors"
    save_statistics(path, STATISTICS[0])
    before, data = path.read_bytes(), bytearray(path.read_bytes())
    if change == "one bit":
        data[-1] ^= 2
        path.write_bytes(data)
    elif change == "no variance":
        tensors = {"a.mean": torch.zeros(2)}
        header = {"format": 2, "model": "", "sha256": fingerprint(tensors)}
        path.write_bytes(safetensors.torch.save(tensors, {"restain_statistics": json.dumps(header)}))
    else:
        wrong = {"nan": math.nan, "infinity": math.inf, "negative": -5.0}.get(change)
        variance = torch.zeros(3) if wrong is None else torch.full_like(moments.variance, wrong)
        save_statistics(path, {**STATISTICS[0], name: Moments(moments.mean, variance)})
    with pytest.raises(InputError, match=r"s\.safetensors.* make it again"):
        load_statistics(path)
    save_statistics(path, STATISTICS[0])
    assert path.read_bytes() == before, "the same statistics are the same bytes"


def test_a_policy_is_a_policy_whatever_files_are_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word, norm in {"slide": SlideNorm(), "dense": DenseNorm(), "tile": TileNorm()}.items():
        save_statistics(Path(word), STATISTICS[0])
        assert find_norm(word) == norm


def test_the_same_statistics_have_one_digest_wherever_they_lie(tmp_path: Path) -> None:
    save_statistics(tmp_path / "a.safetensors", STATISTICS[0], model="aa")
    save_statistics(tmp_path / "b.safetensors", STATISTICS[1], model="aa")
    one, other = (SharedNorm.read(tmp_path / f"{name}.safetensors") for name in "ab")
    assert one.digest == SharedNorm(STATISTICS[0], "aa").digest
    assert one.digest != other.digest


@torch.no_grad()
def test_dense_with_the_same_statistics_everywhere_is_slide() -> None:
    network, statistics = GENERATORS[0], STATISTICS[0]

    def everywhere(value: Tensor) -> Tensor:
        return value.view(-1, 1, 1).expand(-1, 2, 3)

    grid = DenseStatistics(
        np.array([40.0, 120.0, 200.0]),
        np.array([40.0, 120.0]),
        {name: everywhere(moments.mean) for name, moments in statistics.items()},
        {name: everywhere((moments.variance + 1e-5).sqrt()) for name, moments in statistics.items()},
    )
    place = Box(100, 36, 64, 48)
    window = to_tensor(IMAGE[place.slices])
    assert_close(stain_densely(network, grid, window, place), freeze(network, statistics)(window), rtol=0, atol=5e-5)


@torch.no_grad()
def test_dense_interpolates_between_the_centres_of_tiles() -> None:
    """The stem alone, by loops: each pixel between the moments of the four tiles around it."""
    network = GENERATORS[0]
    grid = dense_statistics(network, (96, 64), lambda box: IMAGE[box.slices], tile_px=32)
    assert grid.x.tolist() == [16, 48, 80]
    assert grid.y.tolist() == [16, 48]
    name = next(iter(instance_norms(network)))
    stem = nn.Sequential(network.stages["input"], network.stages["stem"][0])
    for row in range(2):
        for column in range(3):
            features = stem(to_tensor(IMAGE[row * 32 :][:32, column * 32 :][:, :32]))[0]
            assert_close(grid.mean[name][:, row, column], features.mean((1, 2)))
            deviation = (features.var((1, 2), correction=0) + 1e-5).sqrt()
            assert_close(grid.deviation[name][:, row, column], deviation)

    place = Box(20, 8, 24, 32)
    window = to_tensor(IMAGE[place.slices])
    seen: list[Tensor] = []
    hook = network.stages["stem"][2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0].clone()))
    stain_densely(network, grid, window, place)
    hook.remove()
    features = stem(window)[0]
    for y, x in ((0, 0), (5, 20), (17, 3), (31, 23)):
        down, right = (place.y + y + 0.5 - 16) / 32, (place.x + x + 0.5 - 16) / 32
        mean, deviation = (bilinear(table[name], down, right) for table in (grid.mean, grid.deviation))
        assert_close(seen[0][:, y, x], (features[:, y, x] - mean) / deviation, rtol=1e-3, atol=1e-4)


def bilinear(table: Tensor, down: float, right: float) -> Tensor:
    """Between the four tiles around a place, which is given in tiles from the centre of the first."""
    down, right = max(down, 0), max(right, 0)
    row, column = min(int(down), table.shape[1] - 2), min(int(right), table.shape[2] - 2)
    down, right = down - row, right - column
    upper = table[:, row, column] * (1 - right) + table[:, row, column + 1] * right
    lower = table[:, row + 1, column] * (1 - right) + table[:, row + 1, column + 1] * right
    return upper * (1 - down) + lower * down
