"""Drawn regions: what lies in them is stained as ever, what does not is left as glass."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from restain.errors import InputError, MissingError
from restain.image import RGB, load_image
from restain.polygons import Roi
from restain.slides.codec import Codec
from restain.slides.reader import open_slide
from restain.slides.rois import coarse_mask, load_roi
from restain.slides.writer import BACKGROUND
from restain.staining.model import Model, load_model
from restain.staining.policies import SharedNorm
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide
from restain.trust.slide import SlideMaps

MakeSlide = Callable[..., Path]
PLAIN = SlideSettings(tile_px=128, codec=Codec("lossless"))
RING = [(330, 160), (470, 180), (440, 280), (345, 270)]
"""Inside the drawn tissue, across several tiles."""
HOLE = [(380, 200), (420, 200), (420, 240), (380, 240)]


@pytest.fixture
def model(checkpoint: Path) -> Model:
    return load_model(checkpoint)


@pytest.fixture
def rois(tmp_path: Path) -> Path:
    path = tmp_path / "rois.geojson"
    path.write_text(json.dumps([{"type": "Polygon", "coordinates": [RING, HOLE]}]))
    return path


def pixels(path: Path) -> RGB:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def drawn_by_pillow() -> NDArray[np.bool_]:
    image = Image.new("1", (600, 430))
    draw = ImageDraw.Draw(image)
    for ring, fill in ((RING, 1), (HOLE, 0)):
        draw.polygon([(x - 0.5, y - 0.5) for x, y in ring], fill=fill)
    return np.asarray(image)


def test_only_what_was_drawn_is_stained(model: Model, make_slide: MakeSlide, rois: Path, tmp_path: Path) -> None:
    he, whole, part = make_slide(), tmp_path / "whole.ome.tif", tmp_path / "part.ome.tif"
    stain_slide(model, he, whole, PLAIN)
    norm = SharedNorm.read(tmp_path / "whole.statistics.safetensors")
    report = stain_slide(model, he, part, replace(PLAIN, rois=rois, norm=norm))
    assert report.megapixels < 600 * 430 / 1e6
    virtual, inside = pixels(part), drawn_by_pillow()
    well_inside, well_outside = ndimage.binary_erosion(inside), ~ndimage.binary_dilation(inside)
    assert np.array_equal(virtual[well_inside], pixels(whole)[well_inside])
    assert np.unique(virtual[well_outside], axis=0).tolist() == [pixels(whole)[0, 0].tolist()], "the colour of glass"


def test_only_what_was_drawn_is_judged(model: Model, make_slide: MakeSlide, rois: Path, tmp_path: Path) -> None:
    stain_slide(model, make_slide(), tmp_path / "out.ome.tif", replace(PLAIN, rois=rois), extra=SlideMaps())
    picture = load_image(tmp_path / "out.trust.png")[::4, ::4]
    inside = drawn_by_pillow()
    blocks = [[inside[y : y + 64, x : x + 64].any() for x in range(0, 600, 64)] for y in range(0, 430, 64)]
    assert ((picture != 200).any(axis=2) != np.array(blocks)).sum() <= 1  # a block may hold a corner's last pixel


def test_a_drawing_on_glass_is_left_white_where_there_is_no_tissue(
    model: Model, make_slide: MakeSlide, rois: Path, tmp_path: Path
) -> None:
    stain_slide(model, make_slide(tissue=False), tmp_path / "out.ome.tif", replace(PLAIN, rois=rois))
    assert np.unique(pixels(tmp_path / "out.ome.tif")[:100].reshape(-1, 3), axis=0).tolist() == [list(BACKGROUND)]


def test_the_coarse_mask_misses_nothing_and_many_polygons_are_one_union(make_slide: MakeSlide) -> None:
    random = np.random.default_rng(0)
    square = np.array([(0, 0), (9, 0), (9, 9), (0, 9)])
    squares = [[square + corner] for corner in random.uniform(-20, 590, (200, 2))]
    with open_slide(make_slide()) as slide:
        coarse = coarse_mask(Roi("", squares), slide)
    fine = Roi("", squares).mask((0, 0), (600, 430), 1.0)
    union = np.zeros_like(fine)
    for one in squares:
        union |= Roi("", [one]).mask((0, 0), (600, 430), 1.0)
    assert np.array_equal(fine, union)
    assert all(coarse.touches(x, y, 1, 1) for y, x in np.argwhere(fine)[::17].tolist())
    left = Roi("", squares).mask((100, 50), (200, 100), 1.0)
    assert np.array_equal(left, fine[50:150, 100:300])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("no json", "cannot be read as GeoJSON"),
        ('{"a": 1}', "cannot be read as GeoJSON"),
        ('{"type": "FeatureCollection", "features": []}', "has no polygon"),
        ('{"type": "Feature", "geometry": null}', "has no polygon"),
        ('{"type": "Polygon", "coordinates": ["a"]}', "cannot be read as GeoJSON"),
        ('{"type": "Polygon", "coordinates": [[[1, 1]]]}', "fewer than three points"),
        ('[{"type": "Polygon", "coordinates": [[[9e5, 9e5], [9e5, 9.1e5], [9.1e5, 9e5]]]}]', "none of its polygons"),
    ],
)
def test_bad_regions_are_refused(make_slide: MakeSlide, tmp_path: Path, contents: str, message: str) -> None:
    (tmp_path / "r.geojson").write_text(contents)
    with open_slide(make_slide()) as slide:
        with pytest.raises(InputError, match=message):
            load_roi(tmp_path / "r.geojson", slide)
        with pytest.raises(MissingError, match="does not exist"):
            load_roi(tmp_path / "none.geojson", slide)
