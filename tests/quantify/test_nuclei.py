"""Nuclei and membranes drawn by hand: what is there is found, and measured as it was drawn."""

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from restain.errors import InputError
from restain.image import to_uint8
from restain.quantify import QuantifySettings, find_nuclei, quantify_image, quantify_tiles
from restain.quantify.outlines import outlines
from restain.stains import STAIN_VECTORS, beer_lambert, from_unit

MPP = 0.5
SIDE = 160


def drawn(haematoxylin: NDArray[np.float64], dab: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An image with these optical densities."""
    density = torch.from_numpy(np.stack([haematoxylin + 0.05, np.zeros_like(dab), dab]))[None]
    return to_uint8(from_unit(beer_lambert(density, STAIN_VECTORS)))[0]


def discs(centres: Iterable[tuple[float, float]], radius: float, side: int = SIDE) -> NDArray[np.float64]:
    """1 within `radius` of a centre (x, y), smooth over two pixels."""
    y, x = np.mgrid[:side, :side]
    distance = np.min([np.hypot(x - cx, y - cy) for cx, cy in centres], axis=0)
    return np.clip((radius - distance) / 2 + 0.5, 0, 1)


GRID = [(x, y) for x in range(25, 150, 28) for y in range(25, 150, 28)]


def test_discs_are_found_where_they_are() -> None:
    found = quantify_image(drawn(0.5 * discs(GRID, 6), np.zeros((SIDE, SIDE))), QuantifySettings(MPP, "nuclear"))
    assert sorted(zip(np.rint(found.cells.x), np.rint(found.cells.y), strict=True)) == sorted(GRID)
    np.testing.assert_allclose(
        found.cells.area_um2**0.5, (np.pi * 9) ** 0.5, rtol=0.15
    )  # the foot of a soft edge counts
    assert found.tally().counts == (len(GRID), 0, 0, 0)


def test_touching_discs_are_parted_and_texture_does_not_part() -> None:
    pairs = discs([(60, 80), (70, 80)], 6)
    rng = np.random.default_rng(0)
    grain = 0.1 * rng.standard_normal((SIDE, SIDE)) * pairs
    assert find_nuclei(drawn(0.5 * pairs + grain, np.zeros_like(pairs)), MPP).max() == 2
    alone = discs([(80, 80)], 8)
    assert (
        find_nuclei(drawn((0.5 + 0.1 * rng.standard_normal(alone.shape)) * alone, np.zeros_like(alone)), MPP).max() == 1
    )


def test_each_label_is_one_piece_and_numbers_have_no_gaps() -> None:
    from scipy import ndimage

    rng = np.random.default_rng(1)
    labels = find_nuclei(drawn(0.5 * discs(rng.uniform(5, 155, (60, 2)), 5), np.zeros((SIDE, SIDE))), MPP)
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert all(ndimage.label(labels == label, np.ones((3, 3)))[1] == 1 for label in range(1, labels.max() + 1))


@pytest.mark.parametrize(("dab", "intensity"), [(0.1, 0), (0.35, 1), (0.65, 2), (1.0, 3)])
def test_nuclear_dab_is_measured(dab: float, intensity: int) -> None:
    nuclei = discs(GRID, 6)
    cells = quantify_image(drawn(0.3 * nuclei, dab * nuclei), QuantifySettings(MPP, "nuclear")).cells
    assert len(cells) == len(GRID)
    assert set(cells.intensity.tolist()) == {intensity}


@pytest.mark.parametrize(("part", "dab", "intensity"), [(1, 0.7, 3), (1, 0.3, 2), (0.4, 0.7, 1), (0, 0.7, 0)])
def test_membranes_are_scored_by_completeness_and_density(part: float, dab: float, intensity: int) -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    ring = np.zeros((SIDE, SIDE))
    for cx, cy in GRID:
        around = (np.arctan2(y - cy, x - cx) / (2 * np.pi) + 0.5) < part
        ring = np.maximum(ring, np.clip(2 - np.abs(np.hypot(x - cx, y - cy) - 10), 0, 1) * around)
    cells = quantify_image(drawn(0.5 * discs(GRID, 6), dab * ring), QuantifySettings(MPP, "membrane")).cells
    assert len(cells) == len(GRID)
    assert set(cells.intensity.tolist()) == {intensity}
    np.testing.assert_allclose(cells.completeness, part, atol=0.15)


def test_amounts_are_those_that_were_put_on() -> None:
    dab = np.zeros((64, 64))
    dab[:32, :16] = 0.6
    counted = quantify_image(drawn(np.zeros((64, 64)), dab), QuantifySettings(MPP)).tally()
    row = counted.row("membrane")
    assert row["positive_area_fraction"] == pytest.approx(1 / 8)
    assert row["dab_mean_positive"] == pytest.approx(0.6, abs=0.02)
    assert row["dab_integrated_um2"] == pytest.approx(0.6 * 32 * 16 * MPP**2, rel=0.05)
    assert row["h_score"] is None


def test_the_frame_counts_a_nucleus_on_a_border_once() -> None:
    """Two images side by side: what the border cuts is counted in one of them."""
    both = drawn(0.5 * discs([(80, 40), (80, 100), (30, 60), (120, 60)], 6), np.zeros((SIDE, SIDE)))
    counts = [quantify_image(half, QuantifySettings(MPP)).tally().cells for half in (both[:, :80], both[:, 80:])]
    assert sum(counts) == 4


@pytest.mark.parametrize("tile_px", [64, 100])
def test_tiles_count_as_one_piece(tile_px: int) -> None:
    rng = np.random.default_rng(2)
    side = 256
    nuclei = discs(rng.uniform(0, side, (150, 2)), 5, side)
    image = drawn(0.4 * nuclei, 0.4 * nuclei * (np.arange(side) < 128))
    settings = QuantifySettings(MPP, "nuclear")
    whole = quantify_image(image, settings)
    tiles = list(
        quantify_tiles(
            lambda place, size: image[place[1] : place[1] + size[1], place[0] : place[0] + size[0]],
            (side, side),
            settings,
            tile_px,
        )
    )
    places = [
        (x + tile.location[0], y + tile.location[1])
        for tile in tiles
        for x, y in zip(tile.cells.x, tile.cells.y, strict=True)
    ]
    assert len(places) == len(whole.cells)
    np.testing.assert_allclose(sorted(places), sorted(zip(whole.cells.x, whole.cells.y, strict=True)), atol=1e-3)
    total = sum((tile.tally() for tile in tiles[1:]), tiles[0].tally())
    assert total.counts == whole.tally().counts
    assert total.dab_sum == pytest.approx(whole.tally().dab_sum, rel=1e-5)


def test_outlines_enclose_the_area_of_their_labels() -> None:
    labels = np.zeros((30, 30), np.int32)
    labels[5:15, 3:20] = 1
    labels[20:28, 0:9] = 2
    for label, outline in zip((1, 2), outlines(labels, np.array([1, 2], np.int32)), strict=True):
        assert np.array_equal(outline[0], outline[-1])
        x, y = outline.T
        area = abs((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2
        assert area == pytest.approx((labels == label).sum(), abs=1)
        rows, columns = np.nonzero(labels == label)
        assert outline.min(0).tolist() == [columns.min(), rows.min()]
        assert outline.max(0).tolist() == [columns.max() + 1, rows.max() + 1]


def test_nothing_is_found_where_nothing_is() -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    assert find_nuclei(white, MPP).max() == 0
    assert len(quantify_image(white, QuantifySettings(MPP)).cells) == 0


def test_another_segmenter_may_stand_in() -> None:
    labels = np.zeros((64, 64), np.int32)
    labels[10:20, 10:20], labels[40:50, 30:44] = 3, 7
    image = drawn(np.zeros((64, 64)), 0.5 * (labels > 0))
    found = quantify_image(image, QuantifySettings(MPP, "nuclear", segmenter=lambda rgb: labels))
    assert found.cells.label.tolist() == [3, 7]
    assert found.cells.intensity.tolist() == [2, 2]
    assert len(found.outlines()) == 2


def test_what_cannot_be_measured_is_refused() -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    with pytest.raises(InputError, match="less than 6 px across"):
        quantify_image(white, QuantifySettings(2.0))
    with pytest.raises(InputError, match="out of range"):
        QuantifySettings(0.0)
    with pytest.raises(InputError, match="expected 'nuclear' or 'membrane'"):
        QuantifySettings(0.5, "cytoplasm")  # type: ignore[arg-type]  # what is tested
