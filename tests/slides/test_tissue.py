"""Tissue is found by its colour; its outlines go to GeoJSON and come back the same."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from restain.errors import InputError
from restain.slides import tissue
from restain.slides.reader import open_slide
from restain.slides.rois import coarse_mask, load_roi
from restain.slides.tissue import TissueMask, find_tissue, otsu, save_tissue, tissue_of

MakeSlide = Callable[..., Path]


def test_tissue_is_where_it_was_drawn(make_slide: MakeSlide) -> None:
    with open_slide(make_slide()) as slide:
        found = find_tissue(slide)
    assert found.touches(390, 215, 10, 10)
    assert found.share(350, 180, 80, 60) == 1
    assert not found.touches(0, 0, 200, 430)
    assert not found.touches(0, 0, 600, 60)


def test_glass_without_tissue(make_slide: MakeSlide) -> None:
    with open_slide(make_slide(tissue=False)) as slide, pytest.raises(InputError, match=r"he\.ome\.tif: no tissue"):
        find_tissue(slide)


def test_dust_shadows_and_noise_are_no_tissue() -> None:
    rgb = np.random.default_rng(0).normal(235, 4, (200, 200, 3)).clip(0, 255).astype(np.uint8)
    rgb[20:26, 20:26] = (150, 60, 140)
    rgb[100:, :40] = 5
    assert not tissue_of(rgb, 8.0).any()


@pytest.mark.parametrize("strong_rows", [0, 20])
def test_pale_tissue_is_found_beside_strongly_stained_control(strong_rows: int) -> None:
    rgb = np.random.default_rng(0).normal(236, 1, (200, 200, 3)).clip(0, 255).astype(np.uint8)
    rgb[60:150, 40:160] = (205, 212, 222)
    rgb[:strong_rows, 40:160] = (150, 80, 30)
    found = tissue_of(rgb, 8.0)
    assert found[60:150, 40:160].all()
    assert not found[45:52, :20].any()


def test_blurred_edges_of_strong_tissue_do_not_lower_the_threshold() -> None:
    rgb = np.full((200, 200, 3), 236, np.uint8)
    rgb[40:160, 40:160] = (150, 80, 140)
    colour = ndimage.gaussian_filter((rgb.max(axis=2) - rgb.min(axis=2)).astype(np.float32) / 255, 1.5)
    assert tissue._threshold(colour) == pytest.approx(min(otsu(colour), 40 / 255))


@pytest.mark.parametrize("radius", [1.0, 2.5, 5.0])
def test_growing_in_strips_is_growing_in_one_piece(radius: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tissue, "_STRIP", 7)
    mask = np.random.default_rng(0).random((60, 40)) > 0.99
    mask[20:40] = False
    assert np.array_equal(tissue.grow(mask, radius), ndimage.distance_transform_edt(~mask) <= radius)


def test_otsu_parts_two_groups() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(mean, 0.02, 500) for mean in (0.1, 0.6)])
    assert 0.2 < otsu(values.astype(np.float32)) < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_outlines_fill_to_the_mask(seed: int) -> None:
    noise = np.random.default_rng(seed).standard_normal((30, 40))
    mask = ndimage.gaussian_filter(noise, 1) > 0.05
    drawn = Image.new("1", (320, 240))
    for rings in TissueMask(mask, (8.0, 8.0)).polygons():
        own = Image.new("1", drawn.size)
        for index, ring in enumerate(rings):
            assert ring[0] == ring[-1]
            ImageDraw.Draw(own).polygon([(x - 0.5, y - 0.5) for x, y in ring], fill=int(index == 0))
        drawn.paste(1, mask=own)
    assert np.array_equal(np.array(drawn)[4::8, 4::8], mask)


def test_what_is_saved_can_be_read_again(make_slide: MakeSlide, tmp_path: Path) -> None:
    with open_slide(make_slide()) as slide:
        tissue = find_tissue(slide)
        save_tissue(tissue, slide, tmp_path / "t.png", tmp_path / "t.geojson")
        again = coarse_mask(load_roi(tmp_path / "t.geojson", slide), slide)
    feature = json.loads((tmp_path / "t.geojson").read_text())["features"][0]
    assert feature["properties"]["objectType"] == "annotation"
    assert (again.mask != tissue.mask).mean() < 0.02
    assert Image.open(tmp_path / "t.png").size == tissue.mask.shape[::-1]
