"""A whole slide is stained seamlessly, in bounded steps, resumably; bad input becomes a sentence."""

import os
import shutil
import signal
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import openslide
import pytest
import tifffile
from PIL import ImageCms

from restain.errors import InputError, MissingError, OutputError, RestainError
from restain.image import RGB, to_tensor, to_uint8
from restain.networks.norm import freeze
from restain.slides.codec import Codec
from restain.slides.identity import job_of
from restain.slides.pyramid import Position
from restain.slides.reader import open_slide
from restain.slides.spool import Spool
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.staining.model import Model, load_model
from restain.staining.policies import POLICIES, SharedNorm, TileNorm
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide
from restain.staining.statistics import load_statistics
from restain.trust.slide import SlideMaps
from tests.forked import begin

MakeSlide = Callable[..., Path]
PLAIN = SlideSettings(tile_px=128, codec=Codec("lossless"))
ALL = replace(PLAIN, tissue_mask=False)


@pytest.fixture
def model(checkpoint: Path) -> Model:
    return load_model(checkpoint)


def pixels(path: Path) -> RGB:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def test_tiles_give_what_one_piece_gives(model: Model, make_slide: MakeSlide, drawing: RGB, tmp_path: Path) -> None:
    stain_slide(model, make_slide(), tmp_path / "out.ome.tif", ALL)
    statistics = load_statistics(tmp_path / "out.statistics.safetensors", model=model.sha256)
    padded = np.pad(drawing, ((0, 2), (0, 0), (0, 0)), mode="reflect")  # 430 is no multiple of 4
    expected = to_uint8(freeze(model.generator, statistics)(to_tensor(padded)))[0][:430]
    difference = np.abs(pixels(tmp_path / "out.ome.tif").astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_a_region_has_the_pixels_of_the_whole(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    he, whole, part = make_slide(), tmp_path / "whole.ome.tif", tmp_path / "part.ome.tif"
    stain_slide(model, he, whole, ALL)
    same = replace(ALL, norm=SharedNorm.read(tmp_path / "whole.statistics.safetensors"), region=(201, 99, 250, 240))
    stain_slide(model, he, part, same)
    found = pixels(part)
    assert found.shape == (243, 251, 3)  # from multiples of 4, 200 and 96, on
    difference = np.abs(found.astype(int) - pixels(whole)[96:339, 200:451])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_another_engine_gives_the_same_pixels(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    he, first, second = make_slide(), tmp_path / "torch.ome.tif", tmp_path / "openvino.ome.tif"
    stain_slide(model, he, first, PLAIN)
    stain_slide(model, he, second, replace(PLAIN, engine="openvino"))
    difference = np.abs(pixels(first).astype(int) - pixels(second))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    with pytest.raises(InputError, match="OpenVINO needs a CPU"):
        stain_slide(model, he, tmp_path / "no.ome.tif", replace(PLAIN, engine="openvino", norm=TileNorm()))
    assert not list(tmp_path.glob("no.*"))


def test_half_precision_stays_close(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    he, first, second = make_slide(), tmp_path / "full.ome.tif", tmp_path / "half.ome.tif"
    stain_slide(model, he, first, PLAIN)
    stain_slide(model, he, second, replace(PLAIN, bfloat16=True))
    difference = np.abs(pixels(first).astype(int) - pixels(second))
    assert 0 < difference.mean() < 3


def test_only_tissue_is_stained(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    report = stain_slide(model, make_slide(), tmp_path / "out.ome.tif", PLAIN)
    assert 0 < report.megapixels < 600 * 430 / 1e6
    virtual = pixels(tmp_path / "out.ome.tif")
    assert len(np.unique(virtual[:, :128].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(virtual[200:300, 300:500].reshape(-1, 3), axis=0)) > 1
    assert {path.name for path in tmp_path.glob("out.*")} == {
        "out.ome.tif", "out.tissue.png", "out.tissue.geojson", "out.statistics.safetensors"
    }  # fmt: skip


def test_files_beside_another_result_go_with_it(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    he, out = make_slide(), tmp_path / "out.ome.tif"
    stain_slide(model, he, out, PLAIN, extra=SlideMaps())
    assert len(list(tmp_path.glob("out.*"))) == 6
    stain_slide(model, he, out, replace(ALL, norm=TileNorm()), overwrite=True)
    assert [path.name for path in tmp_path.glob("out.*")] == ["out.ome.tif"]
    stain_slide(model, he, out, PLAIN, overwrite=True)
    own = tmp_path / "out.statistics.safetensors"
    stain_slide(model, he, out, replace(PLAIN, norm=SharedNorm.read(own)), overwrite=True)
    assert own.exists()  # it was given, so it is not another result's


def test_a_spool_that_a_kill_left_beside_a_whole_result_goes(
    model: Model, make_slide: MakeSlide, tmp_path: Path
) -> None:
    he, out = make_slide(), tmp_path / "out.ome.tif"
    stain_slide(model, he, out, PLAIN)
    Spool(out, str(job_of(out))).close()
    assert (tmp_path / "out.ome.tif.spool").is_dir()
    assert stain_slide(model, he, out, PLAIN).skipped
    assert not (tmp_path / "out.ome.tif.spool").exists()


def test_the_file_tells_how_it_was_made(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    out = tmp_path / "out.ome.tif"
    stain_slide(model, make_slide(), out, replace(PLAIN, region=(100, 50, 300, 200), batch=2))
    with tifffile.TiffFile(out) as file:
        told = {e.get("K"): e.text for e in ET.fromstring(file.ome_metadata or "").iter() if e.get("K")}
    assert told["model sha256"] == model.sha256
    assert told["region"] == "100,50,300,200"
    assert told["stained"] == "tissue"
    assert told["arithmetic"] == "float32, torch on cpu"
    assert told["compression"] == "lossless"
    assert told["tile"].endswith("batch 2")
    assert told["model mpp"] == "8"


def test_a_wrong_norm_is_told_before_anything_is_made(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    other = SharedNorm({}, model="of another model")
    with pytest.raises(InputError, match="made with another model"):
        stain_slide(model, make_slide(), tmp_path / "new" / "out.ome.tif", replace(PLAIN, norm=other))
    assert not (tmp_path / "new").exists()


def test_a_file_whose_description_is_broken_is_another_result(tmp_path: Path) -> None:
    path = tmp_path / "broken.ome.tif"
    tifffile.imwrite(
        path, np.zeros((32, 32, 3), np.uint8), photometric="rgb", metadata=None, description="<OME><</OME>"
    )
    assert job_of(path) is None


def test_drawn_regions_are_stained(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    square = "[[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]"
    (tmp_path / "r.geojson").write_text(f'{{"type": "Polygon", "coordinates": [{square}]}}')
    report = stain_slide(model, make_slide(), tmp_path / "out.ome.tif", replace(PLAIN, rois=tmp_path / "r.geojson"))
    assert report.megapixels == 128 * 128 / 1e6


def test_killed_it_goes_on_and_ends_with_the_same_pixels(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    he, whole, killed = make_slide(), tmp_path / "whole.ome.tif", tmp_path / "killed.ome.tif"

    def kill(done: float, *_: object) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    process = begin(lambda: stain_slide(model, he, killed, PLAIN, on_progress=kill), tmp_path / "told")
    assert process.wait() == -signal.SIGKILL
    assert not killed.exists()
    report = stain_slide(model, he, killed, PLAIN)
    assert "resumes an earlier run" in report.notes
    complete = stain_slide(model, he, whole, PLAIN)
    assert complete.megapixels - report.megapixels == pytest.approx(3 * 128 * 128 / 1e6)
    assert np.array_equal(pixels(killed), pixels(whole))


def test_nothing_of_an_unfinished_slide_enters_the_next_one(
    model: Model, make_slide: MakeSlide, drawing: RGB, tmp_path: Path
) -> None:
    """Another slide under the same name gets its own statistics."""

    def stop(*_: object) -> None:
        raise InputError("stopped")

    out, other = tmp_path / "out.ome.tif", tmp_path / "other.ome.tif"
    with pytest.raises(InputError, match="stopped"):
        stain_slide(model, make_slide(), out, ALL, on_progress=stop)
    assert (tmp_path / "out.ome.tif.spool/statistics.safetensors").exists()
    dark = drawing // 4
    write_slide(
        other, dark.shape[1::-1], lambda x, y, w, h: dark[y : y + h, x : x + w], Description("dark", 8.0), tile_px=128
    )
    stain_slide(model, other, out, ALL)
    stain_slide(model, other, tmp_path / "clean.ome.tif", ALL)
    assert np.array_equal(pixels(out), pixels(tmp_path / "clean.ome.tif"))
    first, second = (tmp_path / f"{name}.statistics.safetensors" for name in ("out", "clean"))
    assert first.read_bytes() == second.read_bytes()


def test_side_files_change_with_the_result_only(
    model: Model, make_slide: MakeSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is to replace a result stops while it assembles the file, which takes minutes."""
    he, out, kept = make_slide(), tmp_path / "out.ome.tif", tmp_path / "out.statistics.safetensors"
    stain_slide(model, he, out, PLAIN)
    before = kept.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("restain.slides.writer.write_tiff", Mock(side_effect=OSError(28, "disk full")))
        with pytest.raises(OutputError, match="disk full"):
            stain_slide(model, he, out, ALL, overwrite=True)
    assert kept.read_bytes() == before
    assert (tmp_path / "out.tissue.png").exists()
    stain_slide(model, he, out, ALL, overwrite=True)
    assert kept.read_bytes() != before
    assert not (tmp_path / "out.tissue.png").exists()


def test_a_side_file_that_cannot_be_replaced_is_named_and_the_tiles_stay(
    model: Model, make_slide: MakeSlide, tmp_path: Path
) -> None:
    he, out, in_the_way = make_slide(), tmp_path / "out.ome.tif", tmp_path / "out.tissue.png"
    in_the_way.mkdir()
    with pytest.raises(OutputError, match=r"cannot replace .*out\.tissue\.png.*move it away"):
        stain_slide(model, he, out, PLAIN)
    assert not out.exists()
    in_the_way.rmdir()
    assert stain_slide(model, he, out, PLAIN).megapixels == 0
    assert in_the_way.is_file()


def test_what_is_finished_is_skipped(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    he, out = make_slide(), tmp_path / "out.ome.tif"
    assert not stain_slide(model, he, out, PLAIN).skipped
    moved = shutil.copy(he, tmp_path / "same contents.ome.tif")
    assert stain_slide(model, Path(moved), out, PLAIN).skipped
    with pytest.raises(OutputError, match="exists and is another result"):
        stain_slide(model, he, out, replace(PLAIN, codec=Codec("compact")))
    assert not stain_slide(model, he, out, replace(PLAIN, codec=Codec("compact")), overwrite=True).skipped


def test_statistics_are_the_same_wherever_their_file_lies(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    he, out, first = make_slide(), tmp_path / "out.ome.tif", tmp_path / "first.ome.tif"
    stain_slide(model, he, first, PLAIN)
    kept = tmp_path / "first.statistics.safetensors"
    assert not stain_slide(model, he, out, replace(PLAIN, norm=SharedNorm.read(kept))).skipped
    assert np.array_equal(pixels(out), pixels(first))
    moved = shutil.copy(kept, tmp_path / "moved.safetensors")
    assert stain_slide(model, he, out, replace(PLAIN, norm=SharedNorm.read(moved))).skipped


def test_another_scale_is_resampled_and_told(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    report = stain_slide(model, make_slide(mpp=4.0), tmp_path / "out.ome.tif", ALL)
    assert report.notes == ["4 µm per px, from OME", "reduced to 8 µm per px, which the model was trained at"]
    with open_slide(tmp_path / "out.ome.tif") as slide:
        assert slide.mpp == 8.0
        assert slide.size == (300, 215)
    unknown = stain_slide(replace(model, mpp=None), make_slide(mpp=4.0), tmp_path / "own.ome.tif", ALL)
    assert "the model does not record its µm per px" in unknown.notes[1]


@pytest.mark.parametrize("norm", ["dense", "tile"])
def test_other_policies(model: Model, make_slide: MakeSlide, tmp_path: Path, norm: str) -> None:
    stain_slide(model, make_slide(), tmp_path / "out.ome.tif", replace(PLAIN, norm=POLICIES[norm]))
    assert pixels(tmp_path / "out.ome.tif").std() > 0


def test_too_small_a_disk_is_refused_with_the_figure(
    model: Model, make_slide: MakeSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OutputError, match=r"needs about 0\.00 GB .* but only 0\.00 GB are free; free disk space"):
        stain_slide(model, make_slide(), tmp_path / "out.ome.tif", PLAIN)
    assert not list(tmp_path.glob("out*"))


def test_a_disk_that_fills_up_keeps_what_is_done(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="limits on file sizes belong to POSIX")
    out = tmp_path / "out.ome.tif"

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        spool = Spool(out, "job")
        for row in range(20):
            try:
                spool.put([(Position(0, row, 0), bytes(10_000))])
            except RestainError as error:
                sys.exit(f"{row} {error}")

    process = begin(fill, tmp_path / "told")
    assert process.wait() == 1
    count, _, message = process.told.partition(" ")
    assert message.startswith("cannot write")
    assert "free disk space" in message
    assert 0 < int(count) < 20
    assert not out.exists()
    with Spool(out, "job") as spool:
        assert spool.resumed
        assert len(spool.positions(0)) == int(count)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"region": (5000, 0, 10, 10)}, "region 5000,0,10,10 is not inside"),
        ({"region": (0, 0, 60, 60)}, "no tissue in the area"),
        ({"tile_px": 100}, "for slides, expected multiples of 16"),
        ({"rois": Path("none.geojson")}, "none.geojson does not exist"),
        ({"mpp": 100.0}, "100 µm per pixel is out of range"),
    ],
)
def test_bad_settings_are_refused(
    model: Model, make_slide: MakeSlide, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises((InputError, MissingError), match=message):
        stain_slide(model, make_slide(), tmp_path / "out.ome.tif", replace(PLAIN, **change))  # type: ignore[arg-type]  # by name
    assert not list(tmp_path.glob("out*"))


def test_results_are_ome_tiffs_beside_their_source(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"out\.png: .*\.ome\.tif"):
        stain_slide(model, make_slide(), tmp_path / "out.png", PLAIN)
    with pytest.raises(OutputError, match="is the slide itself"):
        stain_slide(model, make_slide(), make_slide(), PLAIN, overwrite=True)


def test_the_checkpoint_itself_will_do(checkpoint: Path, make_slide: MakeSlide, tmp_path: Path) -> None:
    import restain

    report = restain.stain_slide(checkpoint, make_slide(), tmp_path / "out.ome.tif", PLAIN)
    assert report.path.exists()


def test_what_the_source_carries_and_where_it_comes_from_is_in_the_file(
    model: Model, drawing: RGB, tmp_path: Path
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source, out = tmp_path / "he.tif", tmp_path / "out.ome.tif"
    resolution = {"resolution": (1250, 1250), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(source, drawing, photometric="rgb", tile=(128, 128), iccprofile=profile, **resolution)
    stain_slide(model, source, out, replace(PLAIN, region=(200, 100, 300, 200)))
    with tifffile.TiffFile(out) as opened:
        assert opened.pages[0].iccprofile == profile
        ome = tifffile.xml2dict(opened.ome_metadata)["OME"]
        said = {entry["K"]: entry["value"] for entry in ome["StructuredAnnotations"]["MapAnnotation"]["Value"]["M"]}
        assert ome["Image"]["Pixels"]["Channel"]["Name"] == "virtual HER2"
        assert ome["Image"]["Pixels"]["Plane"]["PositionX"] == 1600
    assert said["source"] == "he.tif"
    assert said["model sha256"] == model.sha256
    assert said["source mpp"] == "8 from the TIFF resolution"
    assert said["software"].startswith("restain ")


def test_the_same_tiles_make_an_ome_zarr(model: Model, make_slide: MakeSlide, tmp_path: Path) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="the independent reader of Zarr is not installed")
    he = make_slide()
    stain_slide(model, he, tmp_path / "a.ome.tif", PLAIN)
    stain_slide(model, he, tmp_path / "a.ome.zarr", PLAIN)
    store = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(tmp_path / "a.ome.zarr" / "0")}}
    stored = np.asarray(tensorstore.open(store, open=True).result().read().result())
    assert np.array_equal(stored.transpose(1, 2, 0), pixels(tmp_path / "a.ome.tif"))
    assert job_of(tmp_path / "a.ome.zarr") == job_of(tmp_path / "a.ome.tif")
    assert not (tmp_path / "a.ome.zarr.spool").exists()
    assert stain_slide(model, he, tmp_path / "a.ome.zarr", PLAIN).skipped
