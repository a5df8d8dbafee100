"""`restain quantify`: tables, cells and pictures, and what is refused."""

import csv
import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from restain.cli import app
from restain.data.phantom import PhantomSettings, draw_pair
from restain.errors import InputError, MissingError
from restain.image import RGB, load_image, save_image, to_tensor, to_uint8
from restain.polygons import Roi
from restain.quantify.density import densities
from restain.quantify.files import MeasuredImage, load_rois, quantify_file
from restain.quantify.tiles import QuantifySettings
from restain.stains import STAIN_VECTORS, from_unit, optical_density, to_unit


@pytest.fixture(scope="module")
def tile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantify") / "in" / "sub" / "tile.png"
    save_image(path, draw_pair(40, PhantomSettings(size_px=192, marker="nuclear")).ihc_aligned)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["quantify", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_tables_cells_and_picture(tile: Path, tmp_path: Path) -> None:
    half = [[0, 0], [96, 0], [96, 192], [0, 192], [0, 0]]
    regions = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [half]},
        "properties": {"name": "left"},
    }
    (tmp_path / "left.geojson").write_text(json.dumps(regions))
    out = tmp_path / "out"
    said = run(
        tile.parents[1], "--out", out, "--marker", "nuclear", "--mpp", 0.5, "--tile-px", 100,
        "--regions", tmp_path / "left.geojson",
    )  # fmt: skip
    assert "1 of 1 images measured" in said
    whole, left = rows(out / "regions.csv")
    assert (whole["image"], whole["region"], left["region"]) == ("sub/tile", "all", "left")
    assert float(left["area_mm2"]) == pytest.approx(float(whole["area_mm2"]) / 2, rel=0.01)
    tiles = rows(out / "tiles.csv")
    assert [(row["x"], row["y"]) for row in tiles] == [("0", "0"), ("100", "0"), ("0", "100"), ("100", "100")]
    assert sum(int(row["cells"]) for row in tiles) == int(whole["cells"]) > 20

    cells = json.loads((out / "sub" / "tile.geojson").read_text(encoding="utf-8"))["features"]
    assert len(cells) == int(whole["cells"])
    names = [cell["properties"]["classification"]["name"] for cell in cells]
    assert names.count("Negative") == int(whole["negative"])
    corners = np.concatenate([cell["geometry"]["coordinates"][0] for cell in cells])
    assert corners.min() >= 0
    assert corners.max() <= 192
    overlay = load_image(out / "sub" / "tile.overlay.png")
    changed = (overlay != load_image(tile)).any(2).mean()
    assert 0.01 < changed < 0.3


def test_a_finer_image_is_read_at_half_a_micrometre_and_keeps_its_coordinates(tile: Path, tmp_path: Path) -> None:
    fine = np.kron(load_image(tile), np.ones((2, 2, 1), np.uint8))
    save_image(tmp_path / "fine.png", fine)
    run(tmp_path / "fine.png", "--out", tmp_path / "out", "--marker", "nuclear", "--mpp", 0.25)
    run(tile, "--out", tmp_path / "coarse", "--marker", "nuclear", "--mpp", 0.5)
    whole, coarse = (rows(tmp_path / folder / "regions.csv")[0] for folder in ("out", "coarse"))
    assert float(whole["area_mm2"]) == pytest.approx(float(coarse["area_mm2"]))
    assert int(whole["cells"]) == pytest.approx(int(coarse["cells"]), rel=0.1)
    cells = json.loads((tmp_path / "out" / "fine.geojson").read_text(encoding="utf-8"))["features"]
    assert np.concatenate([cell["geometry"]["coordinates"][0] for cell in cells]).max() > 300


def test_an_image_without_resolution_is_named_and_the_others_are_measured(tile: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["quantify", str(tile), "--out", str(tmp_path / "out"), "--marker", "nuclear"])
    assert result.exit_code == 1
    assert "no micrometres per pixel" in result.output
    assert result.output.endswith("0 of 1 images measured\n"), "and no table is promised"


def test_slides_in_a_folder_of_images_are_told(tile: Path, tmp_path: Path) -> None:
    for name in ("tile.png", "slide.svs"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(tile.read_bytes())
    said = run(tmp_path / "in", "--out", tmp_path / "out", "--marker", "nuclear", "--mpp", "0.5")
    assert "1 slides in the same folders are not measured" in said
    assert "1 of 1 images measured" in said


def test_a_region_outside_the_image_is_told(tile: Path, tmp_path: Path) -> None:
    dot = [[9.6, 9.6], [10.4, 9.6], [10.4, 10.4], [9.6, 9.6]]  # around no centre of a pixel
    shapes = [{"geometry": {"type": "Polygon", "coordinates": [ring]}} for ring in (square(0, 0), square(500, 0), dot)]
    regions = [shape | {"properties": {"name": name}} for shape, name in zip(shapes, ("in", "far", "dot"), strict=True)]
    (tmp_path / "two.geojson").write_text(json.dumps(regions))
    said = run(
        tile, "--out", tmp_path / "out", "--marker", "nuclear", "--mpp", 0.25, "--regions", tmp_path / "two.geojson"
    )
    for name in ("far", "dot"):
        assert f"region '{name}' covers no pixel of the image of 192 × 192 px" in said
    assert "'in'" not in said


def test_an_image_that_fails_leaves_no_bar(tile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr("restain.quantify.files.quantify_file", Mock(side_effect=InputError("damaged there")))
    monkeypatch.setattr("rich.progress.Progress.stop", lambda progress: left.append(len(progress.tasks)))
    words = ["quantify", str(tile), "--out", str(tmp_path / "out"), "--marker", "nuclear", "--mpp", "0.5"]
    assert "not measured: damaged there" in CliRunner().invoke(app, words).output
    assert left == [0]


def test_regions_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="does not exist"):
        load_rois(tmp_path / "nowhere.geojson")
    (tmp_path / "bad.geojson").write_text("{")
    with pytest.raises(InputError, match="cannot be read as GeoJSON"):
        load_rois(tmp_path / "bad.geojson")
    (tmp_path / "empty.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    with pytest.raises(InputError, match="no polygon"):
        load_rois(tmp_path / "empty.geojson")


def test_a_hole_is_not_in_its_region(tmp_path: Path) -> None:
    square = [[0, 0], [20, 0], [20, 20], [0, 20], [0, 0]]
    hole = [[5, 5], [15, 5], [15, 15], [5, 15], [5, 5]]
    content = [{"geometry": {"type": "Polygon", "coordinates": [square, hole]}, "properties": {}}]
    (tmp_path / "ring.geojson").write_text(json.dumps(content))
    (region,) = load_rois(tmp_path / "ring.geojson")
    mask = region.mask((0, 0), (30, 30))
    assert mask[2, 2]
    assert not mask[10, 10]
    assert not mask[25, 25]
    assert np.array_equal(region.mask((4, 0), (20, 20)), mask[:20, 4:24])


def square(left: int, top: int, side: int = 20) -> list[list[int]]:
    """A ring."""
    right, bottom = left + side, top + side
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def drawn(path: Path, *geometries: object, name: str = "part") -> Path:
    """A GeoJSON of features with these geometries, all of one name."""
    path.write_text(json.dumps([{"geometry": one, "properties": {"name": name}} for one in geometries]))
    return path


def test_no_region_is_called_as_the_whole_image(tmp_path: Path) -> None:
    path = drawn(tmp_path / "r.geojson", {"type": "Polygon", "coordinates": [square(0, 0)]}, name="all")
    with pytest.raises(InputError, match=r"r.geojson: a region is named 'all'.*rename it"):
        load_rois(path)
    image = MeasuredImage("s", (64, 64), _white)
    report = quantify_file(image, QuantifySettings(0.5), tmp_path, rois=[_box("all")])
    assert report.whole.area_um2 == 64 * 64 / 4


@pytest.mark.parametrize("points", range(3))
@pytest.mark.parametrize("before", [[], [square(0, 0)]])
def test_a_ring_of_too_few_points_is_refused(tmp_path: Path, points: int, before: list[object]) -> None:
    rings = [*before, square(5, 5)[:points]]
    path = drawn(tmp_path / "r.geojson", {"type": "Polygon", "coordinates": rings})
    with pytest.raises(InputError, match="'part' has fewer than three points"):
        load_rois(path)


def test_of_other_geometries_only_polygons_are_taken(tmp_path: Path) -> None:
    point = {"type": "Point", "coordinates": [3, 4]}
    polygon = {"type": "Polygon", "coordinates": [square(0, 0)]}
    collection = {"type": "GeometryCollection", "geometries": [point, polygon]}
    several = {"type": "MultiPolygon", "coordinates": [[square(40, 0)], []]}
    (region,) = load_rois(drawn(tmp_path / "r.geojson", point, None, collection, several))
    assert [outer.tolist() for (outer,) in region.polygons] == [square(0, 0), square(40, 0)]


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_region_away_from_a_tile_is_not_drawn_on_it(scale: float) -> None:
    region = _box("part", 40, 24, 17)
    may_touch = 0
    for x in range(0, 64, 4):
        for y in range(0, 64, 4):
            if region.may_touch((x, y), (4, 4), scale):
                may_touch += 1
            else:
                assert not region.mask((x, y), (4, 4), scale).any()
    assert may_touch < 256 * 0.2


def test_the_densities_of_a_tile_serve_all_its_regions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Mock(wraps=densities)
    monkeypatch.setattr("restain.quantify.tiles.densities", counted)
    regions = [_box(str(number), number) for number in range(5)]
    quantify_file(MeasuredImage("s", (64, 64), _white), QuantifySettings(0.5), tmp_path, rois=regions)
    counted.assert_called_once()


def test_an_image_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def read(location: tuple[int, int], size: tuple[int, int]) -> RGB:
        if location[1]:
            raise InputError("damaged there")
        return _white(location, size)

    with pytest.raises(InputError, match="damaged there"):
        quantify_file(MeasuredImage("s", (64, 640), read), QuantifySettings(0.5), tmp_path, tile_px=64)
    assert not list(tmp_path.iterdir())


def _white(_: tuple[int, int], size: tuple[int, int]) -> RGB:
    return np.full((size[1], size[0], 3), 255, np.uint8)


def _box(name: str, left: int = 0, top: int = 0, side: int = 20) -> Roi:
    return Roi(name, [[np.array(square(left, top, side), np.float64)]])


def test_help_says_what_to_install() -> None:
    words = CliRunner().invoke(app, ["quantify", "--help"], env={"COLUMNS": "300"}).output
    assert "restain[instanseg]" in words


def test_stain_vectors_that_are_estimated_measure_the_stain_of_another_scanner(tmp_path: Path) -> None:
    ihc = draw_pair(40, PhantomSettings(size_px=256, marker="nuclear")).ihc_aligned
    other = STAIN_VECTORS.clone()
    other[[0, 2]] = torch.tensor([[0.60, 0.64, 0.48], [0.21, 0.50, 0.84]], dtype=torch.float64)
    amounts = optical_density(to_unit(to_tensor(ihc)).double()).movedim(1, -1) @ torch.linalg.inv(STAIN_VECTORS)
    redrawn = to_uint8(from_unit(torch.pow(10, -(amounts @ other)).clamp(0, 1).movedim(-1, 1)))[0]
    save_image(tmp_path / "reference" / "a.png", ihc)
    save_image(tmp_path / "other" / "a.png", redrawn)
    densities_found = []
    for name, vectors in (("reference", "reference"), ("other", "estimated"), ("other", "reference")):
        out = tmp_path / f"{name}-{vectors}"
        said = run(
            tmp_path / name, "--out", out, "--marker", "nuclear", "--mpp", 0.5, "--stain-vectors", vectors
        )  # fmt: skip
        assert ("stain vectors estimated: haematoxylin 0.6" in said) == (vectors == "estimated")
        densities_found.append(float(rows(out / "regions.csv")[0]["dab_mean"]))
    true, estimated, plain = densities_found
    assert abs(estimated / true - 1) < 0.1 < 0.3 < abs(plain / true - 1)
    assert (load_image(tmp_path / "other-estimated" / "a.overlay.png") == redrawn).mean() > 0.8, "as it is, not redrawn"
