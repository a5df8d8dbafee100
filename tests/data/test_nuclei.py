"""Facts about the density of nuclei that TDKStain learns."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from restain.data.nuclei import SPREAD_PX, NuclearMaps, density_map, nuclear_centres
from restain.data.phantom import PhantomSettings, draw_pair
from restain.errors import ShapeError

Golden = Callable[[str], dict[str, NDArray[np.float32]]]


def test_the_published_map_of_the_published_centres(golden: Golden) -> None:
    published = golden("nuclei_map")
    centres = published["centres_row_column"].astype(np.float64)
    expected = published["map"]
    assert np.array_equal(density_map(centres, (expected.shape[0], expected.shape[1])), expected)


def test_the_map_by_its_definition() -> None:
    centres = np.array([[3.0, 4.0], [3.0, 4.0], [20.0, 10.0], [21.0, 2.0]])
    size, reach = (22, 20), 44
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * SPREAD_PX**2))
    weights /= weights.sum()
    density = np.zeros(size)
    for row in range(size[0]):
        for column in range(size[1]):
            for at_row, at_column in centres.astype(int):
                # beyond the border the nearest pixel repeats, and with it a nucleus that lies on it
                rows = sum(weights[k + reach] for k in range(-reach, reach + 1) if min(max(row + k, 0), 21) == at_row)
                columns = sum(
                    weights[k + reach] for k in range(-reach, reach + 1) if min(max(column + k, 0), 19) == at_column
                )
                density[row, column] += rows * columns
    low, high = density.min(), density.max()
    expected = np.floor((density - low) / (high - low) * 255)
    assert np.abs(density_map(centres, size) - expected).max() <= 1


def test_a_mirrored_tile_has_the_mirrored_map() -> None:
    size = (64, 80)
    centres = np.random.default_rng(0).integers(0, size, (20, 2)).astype(np.float64)
    mirrored = np.stack([centres[:, 0], size[1] - 1 - centres[:, 1]], axis=1)
    difference = density_map(mirrored, size)[:, ::-1].astype(int) - density_map(centres, size)
    assert np.abs(difference).max() <= 1


def test_a_tile_without_nuclei_is_zero_everywhere() -> None:
    assert not density_map(np.zeros((0, 2)), (8, 9)).any()
    assert nuclear_centres(np.zeros((8, 9), np.int32)).shape == (0, 2)


def test_a_centre_outside_the_tile_is_refused() -> None:
    with pytest.raises(ShapeError, match="outside its tile of 9 x 8 px"):
        density_map(np.array([[8.0, 3.0]]), (8, 9))


def test_centres_are_means_of_pixels() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[2:5, 3:8] = 4
    labels[10:12, 10:14] = 1
    assert nuclear_centres(labels).tolist() == [[10.5, 11.5], [3.0, 5.0]]


def test_a_map_is_made_once_and_a_damaged_one_again(tmp_path: Path) -> None:
    pair = draw_pair(3, PhantomSettings(size_px=128))
    maps, reads = NuclearMaps(tmp_path / "maps", nucleus_px=12), []

    def load() -> NDArray[np.uint8]:
        reads.append(1)
        return pair.ihc_aligned

    made = maps.of("tile", load)
    assert (made.dtype, made.shape, made.min(), made.max()) == (np.uint8, (128, 128), 0, 255)
    assert np.array_equal(made, density_map(nuclear_centres(maps.find(pair.ihc_aligned)), (128, 128)))
    assert np.array_equal(maps.of("tile", load), made)
    assert len(reads) == 1
    (tmp_path / "maps" / "tile.png").write_bytes(b"cut short")
    assert np.array_equal(maps.of("tile", load), made)
    assert len(reads) == 2


def test_the_map_of_a_phantom_is_that_of_its_true_nuclei(tmp_path: Path) -> None:
    pairs = [draw_pair(seed, PhantomSettings(size_px=256)) for seed in (1, 2)]
    maps = NuclearMaps(tmp_path, nucleus_px=12)
    found = [maps.of(f"{seed}", lambda pair=pair: pair.ihc_aligned).ravel() for seed, pair in enumerate(pairs)]
    centres = [np.stack([pair.cells.y, pair.cells.x], axis=1).clip(0, 255) for pair in pairs]
    true = [density_map(each, (256, 256)).ravel() for each in centres]
    alike = np.corrcoef(found, true)[:2, 2:]
    assert alike.diagonal().min() > 0.6
    assert alike.diagonal().min() > alike[~np.eye(2, dtype=bool)].max()
