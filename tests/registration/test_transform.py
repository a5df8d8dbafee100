"""A transform between slides: affine and bend, there and back, through a file, and from others' matrices."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restain.errors import InputError, MissingError
from restain.registration.field import Affine, Field, Raster
from restain.registration.transform import Scan, Transform, load_transform, read_transform

HE, IHC = Scan("a.svs", (2000, 1000), 0.5), Scan("b.ndpi", (3000, 4000), 0.25)


def similarity(degrees: float, mirror: bool, scale: float) -> Affine:
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = scale * rotation @ np.diag([-1 if mirror else 1, 1])
    return Affine(np.column_stack([linear, (300.0, 40.0)]))


def bend() -> Field:
    zero = Field.zero(Raster(0, 0, 2000, 1000, 0.5), 120)
    return Field(np.random.default_rng(1).normal(0, 8, zero.coefficients.shape), zero.origin, zero.spacing)


@given(st.floats(-179, 179), st.booleans(), st.floats(0.3, 3))
def test_angle_mirror_and_scale_are_read_off_the_matrix(degrees: float, mirror: bool, scale: float) -> None:
    found = Transform(HE, IHC, similarity(degrees, mirror, scale))
    assert found.is_mirrored == mirror
    assert found.scale == pytest.approx(scale)
    assert found.angle == pytest.approx(degrees, abs=1e-6)


def test_the_bend_comes_before_the_affine_map_and_back_leads_back() -> None:
    transform = Transform(HE, IHC, similarity(30, True, 0.7), bend())
    places = np.random.default_rng(0).uniform((0, 0), (1000, 500), (40, 2))
    assert transform.bend is not None
    moved = places + transform.bend.displacement(places)
    np.testing.assert_allclose(transform(places), transform.affine(moved))
    np.testing.assert_allclose(transform.back(transform(places)), places, atol=1e-3)


@pytest.mark.parametrize("smooth", [None, bend()])
def test_json_keeps_every_bit(tmp_path: Path, smooth: Field | None) -> None:
    path = tmp_path / "t.json"
    saved = Transform(HE, IHC, similarity(12.3, False, 1.07), smooth, {"residual_um": 1.25, "other": np.nan})
    saved.save(path)
    for found in (load_transform(path), read_transform(path, HE, IHC)):
        assert (found.he, found.ihc) == (HE, IHC)
        assert np.array_equal(found.affine.matrix, saved.affine.matrix)
        assert (found.bend is None) == (smooth is None)
        if found.bend is not None and smooth is not None:
            assert np.array_equal(found.bend.coefficients, smooth.coefficients)
            assert (found.bend.origin, found.bend.spacing) == (smooth.origin, smooth.spacing)
        assert found.figures["residual_um"] == 1.25
        assert np.isnan(found.figures["other"])


@pytest.mark.parametrize("smooth", [None, bend()])
def test_pixels_stay_together_where_resolutions_differ_slightly(tmp_path: Path, smooth: Field | None) -> None:
    path = tmp_path / "t.json"
    saved = Transform(HE, IHC, similarity(12.3, False, 1.07), smooth)
    saved.save(path)
    other = replace(HE, mpp=0.5004), replace(IHC, mpp=0.24985)
    found = read_transform(path, *other)
    pixels = np.random.default_rng(0).uniform((0, 0), (2000, 1000), (40, 2))
    np.testing.assert_allclose(found(pixels * other[0].mpp) / other[1].mpp, saved(pixels * HE.mpp) / IHC.mpp)
    assert (found.he, found.ihc) == other


def test_a_transform_of_exchanged_slides_is_refused(tmp_path: Path) -> None:
    same = replace(IHC, size=HE.size, mpp=HE.mpp)
    Transform(HE, same, Affine.identity()).save(tmp_path / "t.json")
    with pytest.raises(InputError, match=r"leads from a\.svs .* to b\.ndpi"):
        read_transform(tmp_path / "t.json", same, HE)


@pytest.mark.parametrize(
    "text",
    [
        "0.9 -0.1 50\n0.1 0.9 20\n",
        "0.9,\t-0.1,\t50,\n0.1,\t0.9,\t20",
        "[[0.9, -0.1, 50.0], [0.1, 0.9, 20.0], [0, 0, 1]]",
        "[[ 9.0e-01 -1.0e-01  5.0e+01]\n [ 1.0e-01  9.0e-01  2.0e+01]\n [ 0.  0.  1.]]",
    ],
)
def test_matrices_in_pixels_are_read_however_they_are_set(tmp_path: Path, text: str) -> None:
    path = tmp_path / "matrix.txt"
    path.write_text(text, encoding="utf-8")
    found = read_transform(path, HE, IHC)
    pixels = np.array([[100.0, 200.0], [0.0, 0.0], [1999.0, 3.0]])
    expected = pixels @ np.array([[0.9, 0.1], [-0.1, 0.9]]) + (50, 20)
    np.testing.assert_allclose(found(pixels * HE.mpp) / IHC.mpp, expected)
    turned = read_transform(path, IHC, HE, inverse=True)
    np.testing.assert_allclose(turned(expected * IHC.mpp) / HE.mpp, pixels, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 0 0 1", "5 numbers"),
        ("1 0 0 0 1 0 0.1 0 1", "not affine"),
        ("1 0 0 2 0 0", "onto a line"),
        ('{"format": "restain slide transform 1", "he": {}}', "damaged"),
        ('{"format": "restain slide transform 1", "he"', "damaged"),
    ],
)
def test_what_is_no_transform_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as refused:
        read_transform(path, HE, IHC)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [("he size_px", [0, 9]), ("ihc mpp", math.nan), ("bend spacing_um", 0), ("bend origin_um", [1e300, 0])],
)
def test_numbers_that_no_slides_have_are_refused(tmp_path: Path, place: str, value: object) -> None:
    path = tmp_path / "t.json"
    Transform(HE, IHC, similarity(12.3, False, 1.07), bend()).save(path)
    content = json.loads(path.read_text())
    section, name = place.split()
    content[section][name] = value
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"t\.json is damaged"):
        load_transform(path)


def test_the_transform_of_other_slides_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    Transform(HE, IHC, Affine.identity()).save(path)
    with pytest.raises(InputError, match=r"2001 x 1000 px"):
        read_transform(path, Scan("other", (2001, 1000), 0.5), IHC)
    with pytest.raises(MissingError):
        read_transform(tmp_path / "none.json", HE, IHC)
    path.write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="format"):
        load_transform(path)
