"""An OME-Zarr has the pixels of the tiles, at the places and sizes that its metadata say, by another reader's word."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from restain.slides.codec import Codec
from restain.slides.ngff import job_of_ngff, write_ngff
from restain.slides.pyramid import Position, Pyramid
from restain.slides.tiff import Description

tensorstore = pytest.importorskip("tensorstore", reason="the independent reader of Zarr is not installed")
GLASS = (242, 241, 239)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (300, 420, 3), np.uint8)


@pytest.fixture
def written(image: NDArray[np.uint8], tmp_path: Path) -> Path:
    pyramid, codec = Pyramid((420, 300), 32), Codec("lossless")

    def tiles(level: int) -> list[tuple[Position, bytes]]:
        small = image[:: 2**level, :: 2**level]
        found = []
        for position in pyramid.positions(level):
            if (position.row + position.column) % 5 == 4:
                continue  # glass
            box = pyramid.box(position)
            rgb = small[box.slices]
            padded = np.pad(rgb, ((0, 32 - rgb.shape[0]), (0, 32 - rgb.shape[1]), (0, 0)), mode="edge")
            found.append((position, codec.encode(np.ascontiguousarray(padded))))
        return found

    levels = [tiles(level) for level in range(len(pyramid.levels))]
    description = Description("drawn", 0.5, "virtual HER2", (10.0, 20.0), {"job": "a job"})
    write_ngff(tmp_path / "drawn.ome.zarr", pyramid, codec, levels, GLASS, description)
    return tmp_path / "drawn.ome.zarr"


def opened(folder: Path, level: int) -> NDArray[np.uint8]:
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / str(level))}}
    return np.asarray(tensorstore.open(spec, open=True).result().read().result())


def test_another_reader_finds_every_pixel(written: Path, image: NDArray[np.uint8]) -> None:
    expected = image.copy()
    pyramid = Pyramid((420, 300), 32)
    for position in pyramid.positions(0):
        if (position.row + position.column) % 5 == 4:
            expected[pyramid.box(position).slices] = GLASS
    assert np.array_equal(opened(written, 0), expected.transpose(2, 0, 1))


def test_every_level_is_there_and_half_as_large(written: Path) -> None:
    pyramid = Pyramid((420, 300), 32)
    for level, (width, height) in enumerate(pyramid.levels):
        assert opened(written, level).shape == (3, height, width)


def test_metadata_are_those_of_version_0_5(written: Path) -> None:
    group = json.loads((written / "zarr.json").read_text())
    assert group["zarr_format"] == 3
    assert group["node_type"] == "group"
    ome = group["attributes"]["ome"]
    assert ome["version"] == "0.5"
    (multiscales,) = ome["multiscales"]
    assert [axis["name"] for axis in multiscales["axes"]] == ["c", "y", "x"]
    assert [axis["type"] for axis in multiscales["axes"]] == ["channel", "space", "space"]
    assert {axis.get("unit") for axis in multiscales["axes"][1:]} == {"micrometer"}
    for level, dataset in enumerate(multiscales["datasets"]):
        array = json.loads((written / dataset["path"] / "zarr.json").read_text())
        assert array["dimension_names"] == ["c", "y", "x"]
        scale, translation = dataset["coordinateTransformations"]
        assert scale["type"] == "scale"
        assert translation["type"] == "translation"
        width, height = Pyramid((420, 300), 32).levels[level]
        # all levels begin at one edge, that of the first pixel, and end within a pixel of one another
        for axis, count, start, extent in ((1, height, 20.0, 150.0), (2, width, 10.0, 210.0)):
            step = scale["scale"][axis]
            assert translation["translation"][axis] - step / 2 == pytest.approx(start - 0.25)
            assert step == 0.5 * 2**level
            assert extent <= step * count < extent + step


def test_the_job_is_found_again(written: Path, tmp_path: Path) -> None:
    assert job_of_ngff(written) == "a job"
    assert job_of_ngff(tmp_path) is None
