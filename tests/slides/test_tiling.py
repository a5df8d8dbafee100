"""Tiles cover an image once, see as far as the network does, and are all of one size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restain.errors import InputError
from restain.slides.tiling import Box, tiles

MULTIPLE = 4
fours = st.integers(1, 60).map(lambda value: value * MULTIPLE)
halos = st.integers(0, 12).map(lambda value: value * MULTIPLE)


@given(size=st.tuples(fours, fours), tile_px=fours, halo_px=halos)
def test_the_cores_cover_each_pixel_once(size: tuple[int, int], tile_px: int, halo_px: int) -> None:
    covered = np.zeros((size[1], size[0]), int)
    for tile in tiles(size, tile_px, halo_px):
        covered[tile.core.slices] += 1
    assert np.all(covered == 1)


@given(size=st.tuples(fours, fours), tile_px=fours, halo_px=halos)
def test_each_window_reaches_the_halo_or_the_border(size: tuple[int, int], tile_px: int, halo_px: int) -> None:
    for tile in tiles(size, tile_px, halo_px):
        core, window = tile.core, tile.window
        assert 0 <= window.x <= max(core.x - halo_px, 0)
        assert 0 <= window.y <= max(core.y - halo_px, 0)
        assert min(core.x + core.width + halo_px, size[0]) <= window.x + window.width <= size[0]
        assert min(core.y + core.height + halo_px, size[1]) <= window.y + window.height <= size[1]


@given(size=st.tuples(fours, fours), tile_px=fours, halo_px=halos)
def test_windows_are_alike_and_on_the_grid_of_the_network(size: tuple[int, int], tile_px: int, halo_px: int) -> None:
    windows = [tile.window for tile in tiles(size, tile_px, halo_px)]
    full = tile_px + 2 * halo_px
    assert {(window.width, window.height) for window in windows} == {(min(size[0], full), min(size[1], full))}
    assert not any(window.x % MULTIPLE or window.y % MULTIPLE for window in windows)


def test_an_image_that_one_window_covers_is_one_tile() -> None:
    (tile,) = tiles((96, 64), 32, 32)
    assert tile.core == tile.window == Box(0, 0, 96, 64)


def test_a_box_inside_another() -> None:
    assert Box(10, 20, 3, 4).within(Box(8, 16, 30, 30)) == Box(2, 4, 3, 4)
    assert Box(10, 20, 3, 4).slices == (slice(20, 24), slice(10, 13))


@pytest.mark.parametrize(("tile_px", "halo_px"), [(0, 0), (-4, 0), (30, 0), (32, 6), (32, -4)])
def test_other_sizes_are_refused(tile_px: int, halo_px: int) -> None:
    with pytest.raises(InputError, match="expected multiples of 4"):
        list(tiles((64, 64), tile_px, halo_px))
