"""Tiles of two slides: which are taken, how the IHC is drawn onto the H&E, and what is measured of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from restain.errors import ConfigError
from restain.image import RGB
from restain.registration.field import Affine, Floats, Raster
from restain.registration.overview import Overview, Shared
from restain.registration.tiling import AGREEING, CutSettings, plan_tiles, read_warped, tile_fit
from restain.registration.transform import Scan
from restain.registration.warp import places_between, places_on
from restain.slides.reader import open_slide
from tests.registration.islands import MPP, SIDE_PX, Islands, turned

SaveSlide = Callable[[str, RGB], Path]


def wavy(points: Floats) -> Floats:
    """A bend as long as those of sections are: 30 µm over 400."""
    return points + 30 * np.sin(points[:, ::-1] / 400)


def test_places_between_are_those_of_every_pixel() -> None:
    box = Raster(100, 50, 75, 130, 0.5)
    np.testing.assert_allclose(places_between(wavy, box), places_on(wavy, box), atol=0.01)
    linear = turned(30, scale=1.3)
    np.testing.assert_allclose(places_between(linear, box), places_on(linear, box), atol=1e-9)


def test_a_warped_read_is_that_of_scipy(islands: Islands, save_slide: SaveSlide) -> None:
    rgb = islands.ihc()
    lie = turned(25)
    box = Raster(500, 600, 96, 80, MPP)
    with open_slide(save_slide("ihc", rgb)) as slide:
        found, covered = read_warped(slide, places_between(lie, box), MPP)
    x, y = places_on(lie, box) / MPP - 0.5
    expected = np.stack([ndimage.map_coordinates(rgb[..., k].astype(float), [y, x], order=3) for k in range(3)], -1)
    assert covered.all()
    assert np.abs(found - expected).mean() < 2
    shifted = np.stack([ndimage.map_coordinates(rgb[..., k].astype(float), [y, x + 1], order=3) for k in range(3)], -1)
    assert np.abs(found - shifted).mean() > 2 * np.abs(found - expected).mean()


def test_what_lies_beyond_the_slide_is_told(islands: Islands, save_slide: SaveSlide) -> None:
    box = Raster(-100, 40, 64, 64, MPP)
    with open_slide(save_slide("ihc", islands.ihc())) as slide:
        _, covered = read_warped(slide, places_between(Affine.identity(), box), MPP)
        assert covered[:, 25:].all()
        assert not covered[:, :25].any()
        _, nowhere = read_warped(slide, places_between(lambda points: points + 1e6, box), MPP)
    assert not nowhere.any()


def test_the_residual_is_the_shift_of_the_second_image(islands: Islands) -> None:
    tile = slice(100, 356), slice(100, 356)
    still = tile_fit(islands.he()[tile], islands.ihc()[tile], 2.0, 12.0)
    assert still.residual_um < 1
    assert still.blocks > 10
    assert still.agreement > 0.8
    moved = tile_fit(islands.he()[tile], np.roll(islands.ihc(), (3, 4), (0, 1))[tile], 2.0, 9.0)
    assert moved.residual_um == pytest.approx(10, abs=0.7)
    assert moved.agreement < 0.5  # 10 µm are more than 9
    assert still.correlation > moved.correlation
    nothing = tile_fit(islands.he()[tile], np.full((256, 256, 3), 240, np.uint8), 2.0, 12.0)
    assert nothing.blocks == 0
    assert np.isnan(nothing.residual_um)


def test_blocks_of_a_tile_that_is_far_off_do_not_agree(islands: Islands) -> None:
    """Beyond the reach of the blocks, what is found lies anywhere, some of it near by chance."""
    he, ihc = islands.he(), islands.ihc()
    for shift in ((30, 0), (-25, 25), (0, -40)):
        found = tile_fit(he[120:300, 120:240], np.roll(ihc, shift, (0, 1))[120:300, 120:240], 2.0, 12.0)
        assert not found.agreement >= AGREEING


def test_tiles_with_enough_tissue_are_planned_and_their_shares_told(islands: Islands, save_slide: SaveSlide) -> None:
    tissue = np.zeros((210, 210), bool)
    tissue[40:120, 60:160] = True
    shared = tissue.copy()
    shared[:, 100:] = False
    settings = CutSettings(mpp=MPP, size_px=64, step_px=32, least_tissue=0.6)
    with open_slide(save_slide("he", islands.he())) as slide:
        he = Overview(
            Scan("he", slide.size, slide.mpp), 2 * MPP, np.zeros((210, 210, 3), np.uint8), tissue, np.zeros_like(tissue)
        )
        places = plan_tiles(slide, he, Shared(shared, tissue, 0.4, 0), settings)
    expected = {}
    for y in range(0, SIDE_PX - 63, 32):
        for x in range(0, SIDE_PX - 63, 32):
            part = np.kron(tissue, np.ones((2, 2)))[y : y + 64, x : x + 64]
            if part.mean() >= 0.6:
                on_both = np.kron(shared, np.ones((2, 2)))[y : y + 64, x : x + 64]
                expected[x, y] = part.mean(), on_both.sum() / part.sum()
    assert {(place.x_px, place.y_px): (place.tissue, place.overlap) for place in places} == expected
    assert len(expected) > 4


@pytest.mark.parametrize(
    "change", [{"mpp": 9.0}, {"size_px": 32}, {"step_px": 0}, {"least_tissue": 1.2}, {"most_residual_um": 0}]
)
def test_impossible_tiles_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        CutSettings(**change)  # type: ignore[arg-type]  # by name
