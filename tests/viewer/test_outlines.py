"""Cells are drawn where they lie, over the image that they belong to, and never too many at a time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from restain.errors import InputError, MissingError
from restain.polygons import geojson_file
from restain.viewer import View, open_view
from restain.viewer.opening import result_of
from restain.viewer.outlines import MOST_SHOWN, Corners, Outlines

Client = Any  # see conftest.py
Places = list[tuple[float, float]]


def square(x: float, y: float, side: float = 4) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def write(path: Path, places: Places) -> Path:
    with geojson_file(path) as file:
        for x, y in places:
            file.add([square(x, y)], {"classification": {"name": "3+", "color": [1, 2, 3]}})
    return path


def same(points: Corners) -> Corners:
    return points


def test_a_box_gets_the_outlines_that_touch_it(tmp_path: Path) -> None:
    places = [(float(x), float(y)) for x, y in np.random.default_rng(0).uniform(0, 100, (200, 2)).round(1)]
    outlines = Outlines(write(tmp_path / "cells.geojson", places), same)
    left, top, right, bottom = 20.0, 30.0, 55.0, 60.0
    expected = []
    for x, y in places:
        if x + 4 >= left and x <= right and y + 4 >= top and y <= bottom:
            expected.append(square(x, y))
    found = outlines.within((left, top, right, bottom))
    assert found["count"] == len(expected)
    assert np.allclose([one["ring"] for one in found["outlines"]], expected, atol=0.051)
    assert all(one["colour"] == [1, 2, 3] for one in found["outlines"])


@pytest.mark.parametrize("form", ["collection", "list", "multipolygon"])
def test_files_of_other_programs_give_the_same(form: str, tmp_path: Path) -> None:
    ours = Outlines(write(tmp_path / "ours.geojson", [(1, 2), (30, 40)]), same)
    content = json.loads((tmp_path / "ours.geojson").read_text())
    if form == "multipolygon":
        rings = [feature["geometry"]["coordinates"] for feature in content["features"]]
        properties = content["features"][0]["properties"]
        geometry = {"type": "MultiPolygon", "coordinates": rings}
        content["features"] = [{"type": "Feature", "geometry": geometry, "properties": properties}]
    (tmp_path / "theirs.geojson").write_text(json.dumps(content["features"] if form == "list" else content, indent=2))
    box = (0.0, 0.0, 100.0, 100.0)
    assert Outlines(tmp_path / "theirs.geojson", same).within(box) == ours.within(box)


def test_a_single_feature_and_a_class_without_colour_are_shown(tmp_path: Path) -> None:
    geometry = {"type": "Polygon", "coordinates": [square(1, 2)]}
    feature = {"type": "Feature", "geometry": geometry, "properties": {"classification": "Tumor"}}
    (tmp_path / "one.geojson").write_text(json.dumps(feature))
    assert Outlines(tmp_path / "one.geojson", same).within((0, 0, 9, 9))["count"] == 1


def test_too_many_are_counted_and_not_sent(tmp_path: Path) -> None:
    outlines = Outlines(write(tmp_path / "cells.geojson", [(5 * n, 0) for n in range(MOST_SHOWN + 1)]), same)
    assert outlines.within((-1, -1, 1e6, 9)) == {"count": MOST_SHOWN + 1, "outlines": []}
    assert len(outlines.within((0, 0, 50, 9))["outlines"]) == outlines.within((0, 0, 50, 9))["count"] == 11


def test_a_file_without_cells_shows_none(tmp_path: Path) -> None:
    assert Outlines(write(tmp_path / "cells.geojson", []), same).within((0, 0, 9, 9))["count"] == 0


@pytest.mark.parametrize("text", ['{"type": "FeatureCollection", "features": [\n{"geo', '{"features": 3}', "[1]"])
def test_a_damaged_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "cells.geojson").write_text(text)
    with pytest.raises(InputError, match=r"cells\.geojson"):
        Outlines(tmp_path / "cells.geojson", same).within((0, 0, 9, 9))


def test_what_is_no_geojson_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "cells.csv").write_text("x,y\n")
    with pytest.raises(InputError, match=r"cells\.csv"):
        Outlines(tmp_path / "cells.csv", same)
    with pytest.raises(MissingError, match=r"none\.geojson"):
        Outlines(tmp_path / "none.geojson", same)


def test_cells_lie_where_their_image_is_shown(
    make_slide: Callable[..., Path], look_at: Callable[[View], Client], tmp_path: Path
) -> None:
    he, ihc = make_slide(), make_slide("ihc.ome.tif")
    matrix = tmp_path / "matrix.txt"
    matrix.write_text("1 0 40\n0 1 24\n")  # H&E at p is the IHC at p + (40, 24) px
    client = look_at(View(he, ihc=ihc, transform=matrix, cells=(write(tmp_path / "ihc.geojson", [(140, 124)]),)))
    assert client("scene.json").json()["cells"] == ["ihc"]
    (found,) = client("cells?image=ihc&box=90,90,110,110").json()["outlines"]
    assert np.allclose(found["ring"], square(100, 100), atol=0.2)
    assert client("cells?image=he&box=0,0,9,9").status == 404
    assert client("cells?image=ihc&box=1,2,3").status == client("cells?image=ihc&box=all").status == 400


def test_cells_of_the_virtual_stain_have_its_pixels(
    view: View, make_slide: Callable[..., Path], look_at: Callable[[View], Client]
) -> None:
    fine = make_slide("fine.ome.tif", mpp=0.25)  # one px of the stain is two of the H&E
    result = result_of(fine, view.models[0], view.out)
    cells = write(result.with_name(result.name.replace(".ome.tif", ".geojson")), [(30, 40)])
    client = look_at(replace(view, slide=fine, cells=(cells,)))
    (found,) = client("cells?image=virtual1&box=0,0,500,400").json()["outlines"]
    assert np.allclose(found["ring"], square(60, 80, 8), atol=0.2)


def test_cells_that_several_images_may_own_are_said(make_slide: Callable[..., Path], tmp_path: Path) -> None:
    he, ihc = make_slide("he/case.ome.tif"), make_slide("ihc/case.ome.tif")
    notes: list[str] = []
    with open_view(View(he, ihc=ihc, cells=(write(tmp_path / "case.geojson", [(1, 1)]),)), notes):
        assert any("case.geojson" in note and "over real IHC" in note and "not over H&E" in note for note in notes)


def test_dots_of_a_slide_belong_to_the_name_of_its_result() -> None:
    slides = [Path(name) for name in ("S24.101.svs", "S24.102.svs", "S24.103.ome.tif", "S24.104.OME.TIF")]
    results = [result_of(slide, Path("her2.safetensors"), None).name for slide in slides]
    assert results == [f"S24.{number}.her2.ome.tif" for number in (101, 102, 103, 104)]


def test_a_file_named_after_no_image_is_said(view: View, tmp_path: Path) -> None:
    notes: list[str] = []
    with open_view(replace(view, models=(), cells=(write(tmp_path / "any.geojson", [(1, 1)]),)), notes):
        assert any("any.geojson" in note and "H&E" in note for note in notes)
    twice = (write(tmp_path / "one.geojson", []), write(tmp_path / "two.geojson", []))
    with pytest.raises(InputError, match=r"two\.geojson"), open_view(replace(view, models=(), cells=twice), notes):
        pass
