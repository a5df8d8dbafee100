"""Inputs that are right but unusual: read as they are meant, or refused in a sentence; never taken for another."""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from restain.errors import InputError, OutputError
from restain.folders import files_below, list_images, read_text, subfolders_with_images
from restain.image import RGB, image_size, load_image
from restain.metrics.trust import read_trust_table
from restain.polygons import read_rois
from restain.registration.cut import undamaged
from restain.slides.identity import job_of
from restain.slides.reader import open_slide
from restain.slides.tiff_source import TiffSource
from restain.slides.tiling import Box
from restain.staining.inputs import find_slides
from restain.staining.plan import make_plan
from restain.training.toml import parsed
from restain.viewer.outlines import Outlines

CENTIMETRES = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}  # 0.5 µm per px


@pytest.fixture
def noise() -> RGB:
    return np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("where", ["exif", "xmp"])
def test_the_header_promises_the_shape_that_is_decoded(
    noise: RGB, tmp_path: Path, orientation: int, where: str
) -> None:
    image, path = Image.fromarray(noise), tmp_path / "a.png"
    if where == "exif":
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(path, exif=exif)
    else:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", f'<rdf:Description tiff:Orientation="{orientation}"/>')
        image.save(path, pnginfo=info)
    assert image_size(path) == load_image(path).shape[1::-1] == ((64, 96) if orientation > 4 else (96, 64))


def test_an_orientation_behind_the_pixels_is_refused(noise: RGB, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "late.png"
    Image.fromarray(noise).save(path, exif=exif)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    with pytest.raises(InputError, match=r"late\.png"):
        load_image(path)


def test_a_large_colour_profile_is_no_damage(noise: RGB, tmp_path: Path) -> None:
    Image.fromarray(noise).save(tmp_path / "a.png", icc_profile=os.urandom(1_500_000))
    assert np.array_equal(load_image(tmp_path / "a.png"), noise)


def test_pixel_sizes_come_from_the_series_that_is_read(tmp_path: Path) -> None:
    rgb = np.full((512, 512, 3), 200, np.uint8)

    def um(mpp: float) -> dict[str, object]:
        return {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}

    with tifffile.TiffWriter(tmp_path / "s.ome.tif") as file:
        file.write(rgb[::16, ::16].copy(), photometric="rgb", metadata=um(8.0))
        file.write(rgb, subifds=1, tile=(256, 256), photometric="rgb", metadata=um(0.5))
        file.write(rgb[::2, ::2].copy(), subfiletype=1, tile=(256, 256), photometric="rgb")
    with open_slide(tmp_path / "s.ome.tif") as slide:
        assert slide.size == (512, 512)
        assert slide.mpp == 0.5


def test_pixels_that_are_not_square_are_refused_unless_their_size_is_given(noise: RGB, tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    sizes = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, noise, photometric="rgb", tile=(16, 16), metadata=sizes)
    with pytest.raises(InputError, match=r"s\.ome\.tif.*0\.25 x 0\.5"):
        open_slide(path)
    with open_slide(path, mpp=0.25) as slide:
        assert slide.mpp == 0.25


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_a_tiff_of_another_colour_space_is_refused(noise: RGB, tmp_path: Path, mode: str) -> None:
    Image.fromarray(noise).convert(mode).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif.*RGB"):
        TiffSource(tmp_path / "a.tif")


def test_an_uncompressed_strip_is_read_row_by_row(noise: RGB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "s.tif", noise, photometric="rgb", rowsperstrip=64, metadata=None, **CENTIMETRES)
    source = TiffSource(tmp_path / "s.tif")
    monkeypatch.setattr(source, "_segment", lambda *_: pytest.fail("the whole strip is decoded"))
    assert np.array_equal(source.read(0, Box(10, 20, 30, 40)), noise[20:60, 10:40])


def test_only_the_scanned_area_of_a_slide_is_read(monkeypatch: pytest.MonkeyPatch, noise: RGB, tmp_path: Path) -> None:
    import openslide

    path, large = tmp_path / "s.tif", np.tile(noise, (4, 4, 1))
    tifffile.imwrite(path, large, photometric="rgb", tile=(128, 128), metadata=None, **CENTIMETRES)
    whole = openslide.OpenSlide(path)
    names = (f"openslide.bounds-{name}" for name in ("x", "y", "width", "height"))
    bounds = dict(zip(names, ("8", "4", "40", "50"), strict=True))
    monkeypatch.setattr(openslide.OpenSlide, "properties", dict(whole.properties) | bounds)
    with open_slide(path) as slide:
        assert slide.size == (40, 50)
        assert np.array_equal(slide.read((0, 0), (40, 50), slide.mpp), large[4:54, 8:48])
        assert any("(8, 4)" in note for note in slide.notes)


def test_a_region_of_a_few_pixels_is_refused(make_slide: Callable[..., Path]) -> None:
    with open_slide(make_slide()) as slide, pytest.raises(InputError, match="at least 8 px"):
        make_plan(slide, slide.mpp, tile_px=64, halo_px=16, region=(1, 1, 2, 2))


def test_linked_folders_are_followed_and_loops_are_not(noise: RGB, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).save(tmp_path / "store" / "1.png")
    (tmp_path / "in" / "case").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "loop").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    assert [path.relative_to(tmp_path / "in").as_posix() for path in files_below(tmp_path / "in")] == ["case/1.png"]
    assert subfolders_with_images(tmp_path / "in") == ["case"]


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are UTF-8 there")
def test_a_name_that_cannot_be_written_down_is_refused_before_any_work(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller.png")).write_bytes(b"")
    for look in (list_images, lambda folder: list(files_below(folder))):
        with pytest.raises(InputError, match=r"M\\xfcller\.png"):
            look(tmp_path)


def test_dots_in_a_result_s_name_belong_to_it(make_slide: Callable[..., Path], tmp_path: Path) -> None:
    slide = make_slide()
    table = tmp_path / "t.csv"
    table.write_text(f"slide,name\n{slide},S24.101\n{slide},2024/S24.102.ome.tif\n")
    names = [job.target.relative_to(tmp_path / "out").as_posix() for job in find_slides([table], tmp_path / "out")]
    assert names == ["S24.101.ome.tif", "2024/S24.102.ome.tif"]
    table.write_text(f"slide,name\n{slide},../a\n")
    with pytest.raises(InputError, match=r"t\.csv, line 2"):
        find_slides([table], tmp_path / "out")


def test_a_byte_order_mark_is_not_a_part_of_the_file(tmp_path: Path) -> None:
    assert parsed("\ufeffmethod = 'cut'\n") == {"method": "cut"}
    ring = "[[0,0],[9,0],[9,9],[0,0]]"
    text = f'{{"type":"Feature","properties":{{}},"geometry":{{"type":"Polygon","coordinates":[{ring}]}}}}'
    (tmp_path / "g.geojson").write_text(text, encoding="utf-8-sig")
    assert len(read_rois(tmp_path / "g.geojson")) == 1


def test_any_console_takes_any_word(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "HOME": str(tmp_path)}
    program = (
        "import restain.cli, sys; sys.argv[1:] = ['info', '--x=~/a', '~/é']; restain.cli._at_home; restain.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment, check=False)
    assert done.returncode
    assert b"Traceback" not in done.stderr


def test_home_is_found_where_the_shell_did_not_look(monkeypatch: pytest.MonkeyPatch) -> None:
    from restain.cli import _at_home

    monkeypatch.setenv("HOME", "/somewhere")
    assert [_at_home(given) for given in ("--out=~/a", "~/b", "a~b", "--x=a~", "~")] == [
        *("--out=/somewhere/a", "/somewhere/b", "a~b", "--x=a~", "/somewhere"),
    ]


def test_results_in_a_folder_may_be_ome_zarr(make_slide: Callable[..., Path], tmp_path: Path) -> None:
    (job,) = find_slides([make_slide("a.ome.tif")], tmp_path / "out", ".ome.zarr")
    assert job.target.name == "a.ome.zarr"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names belong to POSIX")
def test_nobody_waits_for_a_pipe_where_a_file_is_expected(tmp_path: Path) -> None:
    def pipe(name: str) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(tmp_path / name)
        return tmp_path / name

    for read in (lambda path: Outlines(path, lambda points: points), lambda path: read_text(path, "a card")):
        with pytest.raises(InputError, match=r"pipe.* is not a plain file; .* is expected"):
            read(pipe(f"pipe{secrets.token_hex(4)}"))
    assert read_trust_table(pipe("trust.csv")) == {}
    assert job_of(pipe("r.ome.tif")) is None
    assert job_of(pipe("r.ome.zarr/zarr.json").parent) is None
    with pytest.raises(OutputError, match="is not a plain file; remove it"), undamaged(pipe("tiles.jsonl")):
        pass
