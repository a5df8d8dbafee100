"""A written slide opens in three independent readers, costs nothing where it is empty, and survives interruption."""

import sqlite3
from pathlib import Path

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from PIL import ImageCms

from restain.errors import InputError, OutputError, ShapeError
from restain.image import RGB
from restain.slides.codec import Codec, Compression
from restain.slides.pyramid import Position, Pyramid
from restain.slides.spool import Spool
from restain.slides.tiff import Description
from restain.slides.writer import BACKGROUND, SlideWriter, write_slide

SIZE, TILE = (333, 210), 64
LEVELS = [(333, 210), (167, 105), (84, 53), (42, 27)]
MPP = 0.4567
TOLERANCE = {"jpeg": 1.5, "compact": 3.0, "lossless": 0.0}


def picture() -> RGB:
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    rgb = np.stack([x * 255 // SIZE[0], y * 255 // SIZE[1], (x + y) % 256], axis=-1).astype(np.uint8)
    rgb[:TILE, :TILE] = BACKGROUND
    return rgb


def cut(x: int, y: int, width: int, height: int) -> RGB | None:
    return None if x == y == 0 else picture()[y : y + height, x : x + width]


@pytest.fixture(params=["jpeg", "compact", "lossless"])
def compression(request: pytest.FixtureRequest) -> Compression:
    kind: Compression = request.param
    return kind


@pytest.fixture
def slide(tmp_path: Path, compression: Compression) -> Path:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    description = Description("a < b", MPP, "virtual HER2", provenance={"model": "m & n"}, icc_profile=profile)
    write_slide(tmp_path / "s.ome.tif", SIZE, cut, description, codec=Codec(compression), tile_px=TILE)
    return tmp_path / "s.ome.tif"


def difference(found: object) -> float:
    return float(np.abs(np.asarray(found).astype(int)[..., :3] - picture()).mean())


def test_openslide_reads_it(slide: Path, compression: Compression) -> None:
    with openslide.OpenSlide(slide) as opened:
        assert list(opened.level_dimensions) == LEVELS
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(MPP, rel=1e-6)
        assert opened.color_profile is not None
        assert difference(opened.read_region((0, 0), 0, SIZE)) <= TOLERANCE[compression]
        small = np.asarray(opened.read_region((0, 0), 1, LEVELS[1]).convert("RGB")).astype(int)
        assert np.abs(small[:100, :100] - picture()[:200, :200].reshape(100, 2, 100, 2, 3).mean((1, 3))).mean() < 4


def test_tifffile_reads_it(slide: Path, compression: Compression) -> None:
    with tifffile.TiffFile(slide) as opened:
        assert opened.is_ome
        (series,) = opened.series
        assert [(level.shape[1], level.shape[0]) for level in series.levels] == LEVELS
        assert difference(series.asarray()) <= TOLERANCE[compression]
        assert difference(np.zeros(1)) > 50  # the measure would notice
        ome = tifffile.xml2dict(opened.ome_metadata)["OME"]
        assert ome["Image"]["Pixels"]["PhysicalSizeX"] == MPP
        assert ome["Image"]["Pixels"]["Channel"]["Name"] == "virtual HER2"
        assert ome["StructuredAnnotations"]["MapAnnotation"]["Value"]["M"] == {"K": "model", "value": "m & n"}
    with tifffile.TiffFile(slide, is_ome=False) as opened:
        thumbnail = opened.pages[len(LEVELS)]
        assert not thumbnail.is_tiled
        assert difference(thumbnail.asarray()) <= 2 * TOLERANCE[compression] + 0.5


def test_pyvips_reads_it(slide: Path, compression: Compression) -> None:
    image = pyvips.Image.new_from_file(str(slide))
    assert (image.width, image.height) == LEVELS[0]
    assert 1000 / image.xres == pytest.approx(MPP, rel=1e-6)
    assert difference(image.numpy()) <= TOLERANCE[compression]
    for index, size in enumerate(LEVELS[1:]):
        level = pyvips.Image.tiffload(str(slide), subifd=index)
        assert (level.width, level.height) == size


def test_background_is_stored_once(tmp_path: Path) -> None:
    write_slide(tmp_path / "s.ome.tif", (20_000, 20_000), lambda *_: None, Description("empty", 0.5), tile_px=512)
    assert (tmp_path / "s.ome.tif").stat().st_size < 100_000
    with openslide.OpenSlide(tmp_path / "s.ome.tif") as opened:
        assert opened.read_region((9_000, 9_000), 0, (8, 8)).getextrema()[:3] == tuple((one, one) for one in BACKGROUND)


def test_order_and_interruption_make_no_difference(tmp_path: Path) -> None:
    pyramid, description = Pyramid(SIZE, TILE), Description("s", MPP)
    whole = tmp_path / "whole.ome.tif"
    write_slide(whole, SIZE, cut, description, tile_px=TILE)
    pieces = tmp_path / "pieces.ome.tif"
    positions = [position for position in pyramid.positions(0) if position[1:] != (0, 0)]
    for some in (positions[:1:-2], positions[1::2] + positions[:2]):
        with SlideWriter(pieces, pyramid, description, job="one") as writer:
            for position in some:
                box = pyramid.box(position)
                writer.put([writer.encode(position, picture()[box.slices])])
        assert not pieces.exists()
    with SlideWriter(pieces, pyramid, description, job="one") as writer:
        assert writer.finished() == set(positions)
        writer.finish()
    assert not pieces.with_name("pieces.ome.tif.spool").exists()
    with tifffile.TiffFile(whole) as first, tifffile.TiffFile(pieces) as second:
        for level in range(len(LEVELS)):
            assert np.array_equal(first.series[0].levels[level].asarray(), second.series[0].levels[level].asarray())


def test_tiles_of_another_job_are_thrown_away(tmp_path: Path) -> None:
    pyramid, description = Pyramid(SIZE, TILE), Description("s", MPP)
    with SlideWriter(tmp_path / "s.ome.tif", pyramid, description, job="one") as writer:
        writer.put([writer.encode(Position(0, 0, 0), picture()[:TILE, :TILE])])
    with SlideWriter(tmp_path / "s.ome.tif", pyramid, description, Codec(quality=50), job="one") as writer:
        assert not writer.finished()


@pytest.mark.parametrize("level", [0, 1])
def test_a_kept_tile_that_the_disk_changed_is_made_again(tmp_path: Path, level: int) -> None:
    path = tmp_path / "s.ome.tif"
    position, data = Position(level, 0, 1), bytes(range(99))
    with Spool(path, "job") as spool:
        spool.put([(position, data)])
        spool.set_note("background", "1 2 3")
    for change in ("UPDATE tiles SET data = substr(data, 1, 40)", "UPDATE notes SET value = value || '4'"):
        with sqlite3.connect(path.with_name("s.ome.tif.spool") / "tiles.sqlite") as database:
            database.execute(f"{change} WHERE rowid = (SELECT max(rowid) FROM {change.split()[1]})")
        database.close()
    with Spool(path, "job") as spool:
        assert spool.resumed
        assert spool.note("background") is None
        with pytest.raises(OutputError, match=r"s\.ome\.tif\.spool is damaged"):
            spool.get(position)
        assert spool.positions(level) == set()
        spool.put([(position, data)])
        assert list(spool.tiles(level)) == [(position, data)]


def test_two_writers_of_one_slide_do_not_mix(tmp_path: Path) -> None:
    pyramid, description = Pyramid(SIZE, TILE), Description("s", MPP)
    first = SlideWriter(tmp_path / "s.ome.tif", pyramid, description, job="one")
    with first, pytest.raises(OutputError, match=r"s\.ome\.tif is being written by another process"):
        SlideWriter(tmp_path / "s.ome.tif", pyramid, description, job="one")


def test_a_failing_source_leaves_nothing(tmp_path: Path) -> None:
    def fail(*_: int) -> RGB:
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        write_slide(tmp_path / "s.ome.tif", SIZE, fail, Description("s", MPP), tile_px=TILE)
    assert not list(tmp_path.iterdir())


def test_a_result_that_cannot_be_replaced_keeps_its_tiles(tmp_path: Path) -> None:
    target = tmp_path / "s.ome.tif"
    (target / "in the way").mkdir(parents=True)
    with pytest.raises(OutputError, match="its tiles are kept"):
        write_slide(target, SIZE, cut, Description("s", MPP), tile_px=TILE, job="one")
    (target / "in the way").rmdir()
    target.rmdir()
    write_slide(target, SIZE, lambda *_: None, Description("s", MPP), tile_px=TILE, job="one")
    with tifffile.TiffFile(target) as opened:
        assert difference(opened.asarray()) <= TOLERANCE["jpeg"]


def test_wrong_tiles_and_sizes_are_refused(tmp_path: Path) -> None:
    writer = SlideWriter(tmp_path / "s.ome.tif", Pyramid(SIZE, TILE), Description("s", MPP))
    with writer, pytest.raises(ShapeError, match="expected 64 x 64 x 3 uint8, got 32 x 64 x 3 uint8"):
        writer.encode(Position(0, 0, 0), picture()[:32, :64])
    with pytest.raises(InputError, match="multiples of 16"):
        Pyramid(SIZE, 100)
    with pytest.raises(InputError, match="expected 1 to 100"):
        Codec(quality=0)


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (65, 64), (129, 3)])
def test_any_size_down_to_one_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path = tmp_path / "s.ome.tif"
    write_slide(
        path,
        size,
        lambda x, y, w, h: rgb[y : y + h, x : x + w],
        Description("s", MPP),
        codec=Codec("lossless"),
        tile_px=64,
    )
    with openslide.OpenSlide(path) as opened:
        assert np.array_equal(np.asarray(opened.read_region((0, 0), 0, size).convert("RGB")), rgb)
        assert max(opened.level_dimensions[-1]) <= 64
