"""Polygons come back from GeoJSON as they were written, wherever in the file they lie."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restain.errors import InputError
from restain.polygons import Roi, draw_polygon, geojson_file, read_rois

SQUARE = [[0.0, 0.0], [20.0, 0.0], [20.0, 20.0], [0.0, 20.0], [0.0, 0.0]]
HOLE = [[5.0, 5.0], [15.0, 5.0], [15.0, 15.0], [5.0, 15.0], [5.0, 5.0]]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    with geojson_file(tmp_path / "two.geojson") as file:
        file.add([SQUARE, HOLE], {"name": "ring", "classification": {"name": "Tumour"}})
        file.add([HOLE], {"classification": {"name": "Tumour"}})
    ring, hole = read_rois(tmp_path / "two.geojson")
    assert (ring.name, hole.name) == ("ring", "Tumour")
    assert [corners.tolist() for corners in ring.polygons[0]] == [SQUARE, HOLE]
    assert [corners.tolist() for corners in hole.polygons[0]] == [HOLE]


def test_nothing_written_is_still_a_collection(tmp_path: Path) -> None:
    with geojson_file(tmp_path / "none.geojson"):
        pass
    assert json.loads((tmp_path / "none.geojson").read_text()) == {"type": "FeatureCollection", "features": []}


POLYGON = {"type": "Polygon", "coordinates": [SQUARE]}


@pytest.mark.parametrize(
    "content",
    [
        POLYGON,
        [POLYGON],
        {"type": "Feature", "geometry": POLYGON},
        [{"type": "Feature", "geometry": POLYGON, "properties": None}],
        {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": POLYGON, "properties": {}}]},
        {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 2]}, POLYGON]},
        {"type": "MultiPolygon", "coordinates": [[SQUARE], []]},
    ],
)
def test_a_polygon_is_found_wherever_geojson_allows_one(tmp_path: Path, content: object) -> None:
    (tmp_path / "one.geojson").write_text(json.dumps(content))
    (roi,) = read_rois(tmp_path / "one.geojson")
    assert [ring.tolist() for polygon in roi.polygons for ring in polygon] == [SQUARE]


@given(st.tuples(*[st.floats(0, 40)] * 4), st.sampled_from([0.5, 1.0, 2.0]))
def test_a_mask_holds_the_pixels_whose_centres_lie_inside(corners: tuple[float, ...], scale: float) -> None:
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    box = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    mask = Roi("box", [[box]]).mask((3, 2), (30, 25), scale)
    y, x = (np.mgrid[2:27, 3:33] + 0.5) * scale
    depth = np.min([x - left, right - x, y - top, bottom - y], axis=0)
    assert mask[depth > scale].all()
    assert not mask[depth < -scale].any()


def test_a_mask_equals_the_slow_definition() -> None:
    """A pixel is inside where a ray from its centre meets the rings an odd number of times."""
    random = np.random.default_rng(0)
    for corners in random.integers(3, 12, 40):
        rings = [random.uniform(-8, 38, (corners, 2)), random.uniform(5, 25, (3, 2))]
        y, x = np.mgrid[:24, :30] + 0.5
        inside = [np.zeros(x.shape, bool) for _ in rings]
        for ring, found in zip(rings, inside, strict=True):
            for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, -1, axis=0), strict=True):
                found ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        assert np.array_equal(draw_polygon(rings, (30, 24)), inside[0] & ~inside[1])


@given(st.lists(st.tuples(st.floats(2, 28), st.floats(2, 22)), min_size=1, max_size=4), st.booleans())
def test_neighbours_share_no_pixel_and_leave_none_out(border: list[tuple[float, float]], whole: bool) -> None:
    if whole:  # centres of pixels lie on the border
        border = [(round(x) + 0.5, round(y) + 0.5) for x, y in border]
    line = [(15.5, 0.0), *sorted(border, key=lambda point: point[1]), (9.5, 24.0)]
    left = np.array([(0.0, 0.0), *line, (0.0, 24.0)])
    right = np.array([(30.0, 24.0), *line[::-1], (30.0, 0.0)])
    both = [draw_polygon([ring], (30, 24)) for ring in (left, right)]
    assert (both[0] ^ both[1]).all()


def test_lists_without_end_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "deep.geojson").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"deep.geojson cannot be read as GeoJSON"):
        read_rois(tmp_path / "deep.geojson")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e300"])
def test_places_that_are_none_are_refused(tmp_path: Path, value: str) -> None:
    ring = f"[[0, 0], [9, 0], [9, {value}], [0, 0]]"
    geometry = f'{{"type": "Polygon", "coordinates": [{ring}]}}'
    (tmp_path / "far.geojson").write_text(f'{{"type": "Feature", "properties": {{}}, "geometry": {geometry}}}')
    with pytest.raises(InputError, match=r"far\.geojson"):
        read_rois(tmp_path / "far.geojson")


@pytest.mark.parametrize(
    "kind", [{"name": "Tumor: Positive"}, {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive"]
)
def test_a_class_has_the_same_name_in_every_form_that_qupath_reads(tmp_path: Path, kind: object) -> None:
    shapes = [{"geometry": POLYGON, "properties": {"classification": own}} for own in (kind, {"name": "Stroma"})]
    (tmp_path / "classes.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    assert [roi.name for roi in read_rois(tmp_path / "classes.geojson")] == ["Tumor: Positive", "Stroma"]
