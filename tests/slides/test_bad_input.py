"""What can be wrong with a slide or with the place for the result becomes one sentence, and nothing is half-written."""

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import openslide
import pytest
import tifffile

from restain.cli import main
from restain.image import RGB
from restain.slides.spool import Spool

MakeSlide = Callable[..., Path]


class Ended(NamedTuple):
    status: int
    told: str
    left: list[str]


@pytest.fixture
def stain(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Run the command on a slide; the status, what it said, and the files where the result should be."""

    def call(slide: Path, *words: object) -> Ended:
        out = slide.parent / "out" / "r.ome.tif"
        words = ("stain-slides", slide, "--model", checkpoint, "--out", out, "--tile-px", 64, "--device", "cpu", *words)
        monkeypatch.setattr(sys, "argv", ["restain", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return Ended(int(stop.value.code or 0), captured.err, sorted(path.name for path in out.parent.glob("*")))

    return call


def tiff(path: Path, rgb: RGB, **settings: object) -> Path:
    """A tiled TIFF of one level, its directory first, at 8 µm per px."""
    words = {"resolution": (1250, 1250), "resolutionunit": "CENTIMETER", **settings}
    tifffile.imwrite(path, rgb, photometric="rgb", tile=(128, 128), **words)
    return path


@pytest.mark.parametrize(("compression", "missing"), [(None, 0.3), ("zlib", 0.3), ("jpeg", 0.3), ("jpeg", 0.004)])
def test_a_slide_whose_pixels_end_early(
    stain: Callable[..., Ended], drawing: RGB, tmp_path: Path, compression: str | None, missing: float
) -> None:
    slide = tiff(tmp_path / "he.tif", drawing, compression=compression)
    whole = slide.read_bytes()
    slide.write_bytes(whole[: -int(len(whole) * missing)])  # the last time in the middle of the last tile
    ended = stain(slide)
    assert ended.status == 1
    assert f"restain: {slide} is damaged or cut short: level 0 cannot be read at" in ended.told
    assert ended.told.rstrip().endswith("copy it again")
    assert not ended.left


def test_a_slide_whose_directory_is_lost(stain: Callable[..., Ended], make_slide: MakeSlide) -> None:
    slide = make_slide()
    slide.write_bytes(slide.read_bytes()[:-200])
    ended = stain(slide)
    assert ended.status == 1
    (line,) = ended.told.strip().splitlines()
    assert "cannot be read as a slide" in line
    assert "it may be cut short, copy it again" in line
    assert not ended.left


def test_no_micrometres_per_pixel(stain: Callable[..., Ended], drawing: RGB, tmp_path: Path) -> None:
    slide = tiff(tmp_path / "he.tif", drawing, resolution=(1, 1), resolutionunit="NONE")
    ended = stain(slide)
    assert ended.status == 1
    assert f"{slide} has no micrometres per pixel" in ended.told
    assert "0.25 is usual at 40x" in ended.told
    assert not ended.left
    assert stain(slide, "--mpp", 8).status == 0


def test_one_level_is_enough(stain: Callable[..., Ended], drawing: RGB, tmp_path: Path) -> None:
    assert stain(tiff(tmp_path / "he.tif", drawing)).status == 0
    with openslide.OpenSlide(tmp_path / "out/r.ome.tif") as virtual:
        assert virtual.level_count == 5
        assert virtual.dimensions == (600, 430)


def test_a_macro_image_larger_than_the_slide_is_not_taken_for_it(
    stain: Callable[..., Ended], drawing: RGB, tmp_path: Path
) -> None:
    slide = tmp_path / "he.ome.tif"
    with tifffile.TiffWriter(slide, ome=True) as file:
        size = {"PhysicalSizeX": 8.0, "PhysicalSizeXUnit": "µm"}
        file.write(drawing, photometric="rgb", rowsperstrip=64, metadata=size)  # in strips: OpenSlide does not read it
        file.write(
            np.zeros((2000, 3000, 3), np.uint8), photometric="rgb", compression="zlib", metadata={"Name": "macro"}
        )
    assert stain(slide).status == 0
    with openslide.OpenSlide(tmp_path / "out/r.ome.tif") as virtual:
        assert virtual.dimensions == (600, 430)


def test_no_tissue(stain: Callable[..., Ended], make_slide: MakeSlide) -> None:
    slide = make_slide(tissue=False)
    ended = stain(slide)
    assert ended.status == 1
    assert f"{slide}: no tissue found; stain without tissue mask" in ended.told
    assert not ended.left


def test_a_model_of_another_scale_reads_the_slide_at_its_own(
    stain: Callable[..., Ended], make_slide: MakeSlide, tmp_path: Path
) -> None:
    ended = stain(make_slide(mpp=5.0), "--model-mpp", 4)
    assert ended.status == 0
    assert "enlarged, which adds no detail, to 4 µm per px, which the model was trained at" in ended.told
    with openslide.OpenSlide(tmp_path / "out/r.ome.tif") as virtual:
        assert virtual.dimensions == (750, 537)
        assert float(virtual.properties["openslide.mpp-x"]) == pytest.approx(4.0)


def test_the_disk_fills_up_and_is_made_room_on(stain: Callable[..., Ended], make_slide: MakeSlide) -> None:
    slide = make_slide()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (60_000, hard)
    )  # no file may grow beyond: writing fails as on a full disk
    try:
        ended = stain(slide)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.status == 1
    assert "free disk space or choose another folder, then run the same command" in ended.told
    assert ended.left == ["r.ome.tif.spool"]
    ended = stain(slide)
    assert ended.status == 0
    assert "resumes an earlier run" in ended.told
    assert ended.left == ["r.ome.tif", "r.statistics.safetensors", "r.tissue.geojson", "r.tissue.png"]


def test_another_run_is_writing_the_result(stain: Callable[..., Ended], make_slide: MakeSlide, tmp_path: Path) -> None:
    slide = make_slide()
    with Spool(tmp_path / "out/r.ome.tif", "another run"):
        ended = stain(slide)
    assert ended.status == 1
    assert f"{tmp_path / 'out/r.ome.tif'} is being written by another process; wait for it or end it" in ended.told
    assert ended.left == ["r.ome.tif.spool"]
