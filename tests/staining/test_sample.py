"""A sample for statistics: all tiles where they are few, else less around each, which hardly changes the result."""

import pytest
import torch
import torch.nn.functional as F

from restain.image import RGB, to_uint8
from restain.networks.generator import Generator, GeneratorConfig
from restain.slides.tiling import Box, tiles
from restain.staining.statistics import _narrowed, choose, enough, sample, sample_statistics

MULTIPLE = 4


@pytest.mark.parametrize("size", [(1024, 1024), (1000, 1028)])
def test_windows_of_a_part_are_smaller_and_keep_to_the_grid_of_coarse_pixels(size: tuple[int, int]) -> None:
    candidates = list(tiles(size, 128, 72, MULTIPLE))
    assert sample(candidates, MULTIPLE, len(candidates)) == candidates
    before = {tile.core: tile.window for tile in candidates}
    for tile in sample(candidates, MULTIPLE, 9):
        window, core, wide = tile.window, tile.core, before[tile.core]
        assert all(side % MULTIPLE == 0 for side in (window.x, window.y, window.width, window.height))
        for start, length, outer, most, inner, inner_length in (
            (window.x, window.width, wide.x, wide.width, core.x, core.width),
            (window.y, window.height, wide.y, wide.height, core.y, core.height),
        ):
            assert outer <= start <= inner
            assert inner + inner_length <= start + length <= outer + most
            assert inner - start < 32 + MULTIPLE or start == outer + most - length


@pytest.mark.parametrize("tiles_in_all", [33, 92, 458, 100_000])
def test_a_sample_errs_no_more_than_that_of_a_large_image(tiles_in_all: int) -> None:
    """By the variance of a mean of values drawn without replacement."""

    def variance(count: int) -> float:
        return (1 - count / tiles_in_all) / count

    count = enough(tiles_in_all, 32)
    assert variance(count) <= 1 / 32 < variance(count - 1)
    if tiles_in_all < 100:
        chance = torch.Generator().manual_seed(0)
        values = torch.randn(tiles_in_all, generator=chance)
        orders = torch.rand(4000, tiles_in_all, generator=chance).argsort(1)
        means = values[orders[:, :count]].mean(1)
        assert means.var().item() == pytest.approx(values.var().item() * variance(count), rel=0.15)


def test_a_smaller_margin_and_half_precision_hardly_change_the_statistics() -> None:
    """By less than 4 % of each channel's spread; between two draws of tiles they differ by more."""
    network = Generator(GeneratorConfig(width=8, blocks=2)).eval()
    image = to_uint8(F.interpolate(torch.rand(1, 3, 128, 128) * 2 - 1, size=512, mode="bicubic").clamp(-1, 1))[0]

    def read(box: Box) -> RGB:
        return image[box.slices]

    chosen = choose(list(tiles((512, 512), 128, network.halo_px, network.multiple)), 8)
    expected = sample_statistics(network, chosen, read)
    narrow = [_narrowed(tile, network.multiple) for tile in chosen]
    with torch.autocast("cpu", torch.bfloat16):
        found = sample_statistics(network, narrow, read)
    assert sum(tile.window.width for tile in narrow) < sum(tile.window.width for tile in chosen)
    for name, moments in expected.items():
        spread = moments.variance.sqrt()
        assert ((found[name].mean - moments.mean).abs() < 0.04 * spread).all()
        assert ((found[name].variance.sqrt() / spread - 1).abs() < 0.04).all()
