"""Tiles are stained where somebody looks, have the pixels of the finished file, and are not lost."""

import http.client
import io
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image
from typer.testing import CliRunner

from restain.cli import app
from restain.errors import InputError
from restain.image import RGB
from restain.polygons import Roi
from restain.quantify.tally import Tally
from restain.quantify.tiles import QuantifySettings, quantify_tiles
from restain.registration.field import Affine
from restain.registration.transform import Scan, Transform
from restain.slides.reader import open_slide
from restain.staining.model import load_model
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide
from restain.trust.slide import SlideMaps
from restain.viewer import View, open_view
from restain.viewer.live import LiveStain
from restain.viewer.opening import result_of

Client = Any  # see conftest.py

LookAt = Callable[[View], Client]


def decoded(data: bytes) -> RGB:
    return np.asarray(Image.open(io.BytesIO(data)))


def wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_whole(client: Client, tile: str) -> bool:
    answer = client(f"tiles/virtual1/{tile}")
    assert answer.status == 200
    return answer.headers["x-whole"] == "1"


def finished_pixels(view: View, folder: Path) -> tuple[Path, RGB]:
    folder.mkdir()
    out = folder / "out.ome.tif"
    stain_slide(load_model(view.models[0]), view.slide, out, view.settings)
    with openslide.OpenSlide(out) as slide:
        return out, np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def scene(client: Client) -> Mapping[str, Any]:
    found: Mapping[str, Any] = client("scene.json").json()
    return found


def test_a_tile_that_is_looked_at_has_the_pixels_of_the_file(view: View, look_at: LookAt, tmp_path: Path) -> None:
    client = look_at(view)
    client("look", {"window": "w", "image": "virtual1", "tiles": [[1, 3], [1, 2]]})
    wait_for(lambda: is_whole(client, "0/3_1") and is_whole(client, "0/2_1"))
    _, expected = finished_pixels(view, tmp_path / "finished")
    side = scene(client)["images"][1]["tile_px"]
    for column in (2, 3):
        tile = decoded(client(f"tiles/virtual1/0/{column}_1").body)[..., :3]
        assert np.array_equal(tile, expected[side : 2 * side, column * side : (column + 1) * side])


def test_what_nobody_looks_at_is_not_stained(view: View, look_at: LookAt) -> None:
    client = look_at(view)
    client("look", {"window": "w", "image": "virtual1", "tiles": [[1, 3]]})
    wait_for(lambda: is_whole(client, "0/3_1"))
    time.sleep(0.5)
    assert not is_whole(client, "0/2_1")
    assert decoded(client("tiles/virtual1/0/2_1").body)[..., 3].max() == 0  # not there yet: transparent


def test_statistics_show_how_far_they_are(view: View) -> None:
    news: list[Mapping[str, Any]] = []
    with open_slide(view.slide) as slide:
        out = result_of(view.slide, view.models[0], view.out)
        live = LiveStain(load_model(view.models[0]), slide, out, view.settings, news.append)
        live.start()
        wait_for(lambda: live.phase == "ready")
        live.close()
    shares = [int(one["message"].split()[0]) for one in news if one.get("phase") == "statistics" and one["message"]]
    assert shares == sorted(set(shares))
    assert shares[-1] == 100
    assert news[-1]["phase"] == "ready"


def test_two_models_of_one_name_are_refused(view: View, tmp_path: Path) -> None:
    same = [tmp_path / folder / "same.safetensors" for folder in ("one", "two")]
    for path in same:
        path.parent.mkdir()
        path.write_bytes(view.models[0].read_bytes())
    for models in (tuple(same), (same[0], same[0])):
        with pytest.raises(InputError, match="same"), open_view(replace(view, models=models), []):
            pass


def test_two_windows_get_what_each_looks_at(view: View, look_at: LookAt) -> None:
    client = look_at(view)
    client("look", {"window": "one", "image": "virtual1", "tiles": [[1, 3]]})
    client("look", {"window": "two", "image": "virtual1", "tiles": [[2, 2]]})
    wait_for(lambda: is_whole(client, "0/3_1") and is_whole(client, "0/2_2"))


def test_glass_needs_no_network(view: View, look_at: LookAt) -> None:
    client = look_at(view)
    wait_for(lambda: is_whole(client, "0/0_0"))
    assert len(np.unique(decoded(client("tiles/virtual1/0/0_0").body).reshape(-1, 3), axis=0)) == 1


def test_a_smaller_level_shows_what_is_there_and_then_what_the_file_has(
    view: View, look_at: LookAt, tmp_path: Path
) -> None:
    client = look_at(view)
    client("look", {"window": "w", "image": "virtual1", "tiles": [[1, 3]]})
    wait_for(lambda: is_whole(client, "0/3_1"))
    part = decoded(client("tiles/virtual1/1/1_0").body)
    assert 0 < (part[..., 3] == 255).mean() < 1
    everything = [[row, column] for row in range(4) for column in range(5)]
    client("look", {"window": "w", "image": "virtual1", "tiles": everything})
    deepest = len(scene(client)["images"][1]["levels"]) - 1
    wait_for(lambda: is_whole(client, f"{deepest}/0_0"))
    out, _ = finished_pixels(view, tmp_path / "finished")
    with openslide.OpenSlide(out) as slide:
        expected = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]).convert("RGB"))
    whole = decoded(client("tiles/virtual1/1/1_0").body)[..., :3]
    assert np.array_equal(whole, expected[:128, 128:256])


def test_looking_is_not_lost_work(view: View, look_at: LookAt) -> None:
    client = look_at(view)
    client("look", {"window": "w", "image": "virtual1", "tiles": [[1, 3], [1, 2]]})
    wait_for(lambda: is_whole(client, "0/3_1") and is_whole(client, "0/2_1"))
    again = look_at(replace(view, out=view.out))  # the first one still holds the spool, and the page says so
    wait_for(lambda: b"another process" in next_news(again))


def next_news(client: Client) -> bytes:
    connection = http.client.HTTPConnection(client.host, timeout=10)
    connection.request("GET", f"{client.base}events")
    with connection.getresponse() as answer:
        news = answer.readline()
    connection.close()
    return news


def test_stain_goes_on_from_what_was_looked_at(
    view: View, look_at: LookAt, stop: Callable[[], None], tmp_path: Path
) -> None:
    client = look_at(view)
    client("look", {"window": "w", "image": "virtual1", "tiles": [[1, 3]]})
    wait_for(lambda: is_whole(client, "0/3_1"))
    stop()
    out = result_of(view.slide, view.models[0], view.out)
    report = stain_slide(load_model(view.models[0]), view.slide, out, view.settings)
    _, expected = finished_pixels(view, tmp_path / "finished")
    with openslide.OpenSlide(out) as slide:
        assert np.array_equal(np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")), expected)
    assert any("earlier run" in note for note in report.notes)
    finished = look_at(view)
    assert not scene(finished)["images"][1]["live"]  # the file itself is shown now
    assert np.array_equal(decoded(finished("tiles/virtual1/0/0_0").body).shape[:2], expected[:512, :512].shape[:2])


def test_figures_are_those_of_quantify(view: View, look_at: LookAt, tmp_path: Path) -> None:
    client = look_at(view)
    polygon = [[300.0, 130.0], [430.0, 130.0], [430.0, 260.5], [310.0, 270.0]]
    answer = client("measure", {"image": "virtual1", "polygon": polygon})
    assert answer.status == 200, answer.body
    out, _ = finished_pixels(view, tmp_path / "finished")
    region, total = Roi("region", [[np.array(polygon)]]), Tally()
    with open_slide(out) as slide:
        settings = QuantifySettings(slide.mpp)
        for tile in quantify_tiles(lambda place, size: slide.read(place, size, slide.mpp), slide.size, settings):
            total += tile.tally(region.mask(tile.location, tile.rgb.shape[1::-1]))
    assert answer.json()["figures"] == total.row("membrane")


def test_density_under_the_cursor(view: View, look_at: LookAt) -> None:
    client = look_at(view)
    wait_for(lambda: is_whole(client, "0/0_0"))
    assert client("probe?x=400&y=200").json() == {"virtual1": None}  # not stained yet
    client("look", {"window": "w", "image": "virtual1", "tiles": [[1, 3]]})
    wait_for(lambda: is_whole(client, "0/3_1"))
    assert isinstance(client("probe?x=400&y=200").json()["virtual1"], float)


def test_a_region_can_be_taken_along(view: View, look_at: LookAt) -> None:
    client = look_at(view)
    answer = client("export", {"image": "virtual1", "polygon": [[300, 130], [400, 130], [400, 200]]})
    assert decoded(answer.body).shape == (70, 100, 3)


def test_the_real_ihc_lies_where_its_transform_says(
    make_slide: Callable[..., Path], look_at: LookAt, tmp_path: Path
) -> None:
    he, ihc = make_slide(), make_slide("ihc.ome.tif")
    matrix = tmp_path / "matrix.txt"
    matrix.write_text("1 0 40\n0 1 24\n")  # H&E at p is the IHC at p + (40, 24) px
    client = look_at(View(he, ihc=ihc, transform=matrix))
    he_tile = decoded(client("tiles/he/0/0_0").body).astype(int)
    ihc_tile = decoded(client("tiles/ihc/0/0_0").body).astype(int)
    assert np.abs(ihc_tile[150:300, 300:460] - he_tile[174:324, 340:500]).mean() < 4  # JPEG and resampling


def test_a_transform_cut_at_a_corrected_resolution_fits_where_that_is_given(
    make_slide: Callable[..., Path], look_at: LookAt, tmp_path: Path
) -> None:
    he, ihc = make_slide(mpp=8.0), make_slide("ihc.ome.tif", mpp=8.0)
    Transform(Scan(he.name, (600, 430), 8.0), Scan(ihc.name, (600, 430), 4.0), Affine.identity()).save(
        tmp_path / "transform.json"
    )
    view = View(he, ihc=ihc, transform=tmp_path / "transform.json")
    with pytest.raises(InputError, match=r"belongs to ihc\.ome\.tif"), open_view(view, []):
        pass
    with pytest.raises(InputError, match=r"0.* out of range"), open_view(replace(view, ihc_mpp=0.0), []):
        pass
    client = look_at(replace(view, ihc_mpp=4.0))
    assert [image["kind"] for image in scene(client)["images"]] == ["he", "ihc"]


def test_finished_images_of_any_program_are_shown_at_the_scale_of_the_slide(look_at: LookAt, tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for folder in ("he", "virtual", "ihc"):
        (tmp_path / folder).mkdir()
        Image.fromarray(rgb).save(tmp_path / folder / "1.png")
    he, virtual, ihc = (tmp_path / folder / "1.png" for folder in ("he", "virtual", "ihc"))
    client = look_at(View(he, virtual=(virtual,), ihc=ihc, settings=SlideSettings(mpp=0.5)))
    images = scene(client)["images"]
    assert [image["kind"] for image in images] == ["he", "virtual", "ihc"]
    assert all(image["width_px"] == 400 and not image["live"] for image in images)
    polygon = [[0, 0], [400, 0], [400, 300], [0, 300]]
    figures = [client("measure", {"image": name, "polygon": polygon}).json() for name in ("virtual1", "ihc")]
    assert figures[0]["figures"] == figures[1]["figures"]
    Image.fromarray(rgb[:200]).save(virtual)
    with (
        pytest.raises(InputError, match="400 x 200"),
        open_view(View(he, virtual=(virtual,), settings=SlideSettings(mpp=0.5)), []),
    ):
        pass


def test_a_map_of_trust_is_shown_over_its_own_result_only(view: View, look_at: LookAt) -> None:
    """The result was moved away, and its map was left."""
    result = result_of(view.slide, view.models[0], view.out)
    stain_slide(load_model(view.models[0]), view.slide, result, view.settings, extra=SlideMaps())
    assert look_at(view)("overlays/trust?image=virtual1").status == 200
    result.unlink()
    assert look_at(view)("overlays/trust?image=virtual1").status == 404


def test_a_wrong_transform_or_result_is_told_before_anything_is_served(view: View, tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text("{}")
    run = CliRunner()
    for arguments in (
        ["view", str(view.slide), "--transform", str(tmp_path / "no.json")],
        ["view", str(view.slide), "--ihc", str(view.slide), "--transform", str(tmp_path / "no.json"), "--no-open"],
        ["view", str(tmp_path / "missing.svs"), "--no-open"],
        ["view", str(view.slide), "--model", str(tmp_path / "missing.safetensors"), "--no-open"],
    ):
        result = run.invoke(app, arguments)
        assert result.exit_code != 0
