"""What a slide's header claims is not believed: counts, sizes and names take no memory and end no process."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from restain.errors import InputError
from restain.slides.identity import job_of
from restain.slides.probe import probe
from restain.slides.reader import open_slide
from restain.slides.tiff_source import TiffSource
from restain.slides.tiling import Box

MakeSlide = Callable[..., Path]
RGB = NDArray[np.uint8]
TILE_WIDTH, SAMPLES, LENGTH = 322, 277, 257


def change_tag(path: Path, tag: int, *, value: int | None = None, count: int | None = None) -> Path:
    """Give a tag of the first image another value or count of values."""
    with tifffile.TiffFile(path) as file:
        entry, big = file.pages[0].tags[tag].offset, file.is_bigtiff
    data = bytearray(path.read_bytes())
    if value is not None:
        struct.pack_into("<HQI" if big else "<HII", data, entry + 2, 4, 1, value)
    if count is not None:
        struct.pack_into("<Q" if big else "<I", data, entry + 4, count)
    path.write_bytes(data)
    return path


def with_xml(path: Path, old: str, new: str) -> Path:
    """Change the OME-XML of a slide of restain's."""
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[270]
        assert old in tag.value
        xml = tag.value.replace(old, new).encode() + b"\0"
        entry = tag.offset
    struct.pack_into("<QQ", data, entry + 4, len(xml), len(data))
    path.write_bytes(bytes(data) + xml)
    return path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('PlaneCount="1"', 'PlaneCount="999999999"'),
        ('SizeT="1"', 'SizeT="1000000000"'),
        ('SizeZ="1"', 'SizeZ="1000000000"'),
        ('PlaneCount="1" />', 'PlaneCount="1"><UUID FileName="pipe">urn:uuid:1</UUID></TiffData>'),
    ],
)
def test_counts_and_names_of_files_in_ome_xml_are_not_followed(
    make_slide: MakeSlide, drawing: RGB, old: str, new: str
) -> None:
    source = TiffSource(with_xml(make_slide(), old, new))
    assert source.levels[0] == (600, 430)
    assert np.array_equal(source.read(0, Box(100, 50, 40, 30)), drawing[50:80, 100:140])


def test_a_slide_at_which_openslide_aborts_is_refused_and_the_next_one_is_read(
    drawing: RGB, tmp_path: Path, make_slide: MakeSlide
) -> None:
    path = tmp_path / "bad.svs"
    words = "Aperio Image Library v10.0.50\r\n600x430 [0,0 600x430] (256x256) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"
    with tifffile.TiffWriter(path) as file:
        file.write(drawing, photometric="rgb", tile=(256, 256), compression="jpeg", metadata=None, description=words)
    probe(path)
    change_tag(path, TILE_WIDTH, value=2**31 - 16)
    with pytest.raises(InputError, match=r"bad\.svs cannot be read as a slide"):
        open_slide(path)
    with open_slide(make_slide()) as slide:
        assert slide.size == (600, 430)


@pytest.mark.parametrize("length", [0, 43_000, 2**31])
def test_sizes_that_the_file_cannot_hold_are_refused(drawing: RGB, tmp_path: Path, length: int) -> None:
    path = tmp_path / "claims.tif"
    tifffile.imwrite(path, drawing, photometric="rgb", tile=(128, 128), metadata=None)
    change_tag(path, LENGTH, value=length)
    with pytest.raises(InputError, match=r"claims\.tif"):
        TiffSource(path)


def test_a_damaged_file_is_nobodys_result(make_slide: MakeSlide, tmp_path: Path) -> None:
    path = change_tag(make_slide(), SAMPLES, count=0)
    assert job_of(path) is None
    path.write_bytes(path.read_bytes()[:100])
    assert job_of(path) is None
