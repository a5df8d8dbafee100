"""Images: what comes in is exact or refused with a reason; what goes out is whole or not there."""

import errno
import io
import os
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch.testing import assert_close

import restain.image
from restain.errors import InputError, MissingError, OutputError, ShapeError
from restain.image import atomic_path, image_size, load_image, make_folder, save_image, to_tensor, to_uint8
from tests.forked import begin

Rgb = NDArray[np.uint8]
LOSSLESS = [("PNG", "png"), ("TIFF", "tif"), ("TIFF", "tiff"), ("BMP", "bmp"), ("WEBP", "webp")]
ANY_FORMAT = [*LOSSLESS, ("JPEG", "jpg")]


@pytest.fixture
def rgb() -> Rgb:
    return np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)


def encode(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **({"lossless": True} if file_format == "WEBP" else {}), **options)
    return buffer.getvalue()


def png_by_hand(bits: int, colour_type: int, pixels: bytes, width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    rows = len(pixels) // height
    lines = b"".join(b"\0" + pixels[rows * y : rows * (y + 1)] for y in range(height))
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


# ------------------------------------------------------------------------------------------------------------- tensors


def test_every_level_survives_the_way_to_a_tensor_and_back() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    assert (to_uint8(to_tensor(levels))[0] == levels).all()


def test_black_is_minus_one_and_white_is_one() -> None:
    ends = to_tensor(np.array([[[0, 255, 0], [255, 0, 255]]], dtype=np.uint8))
    assert_close(ends, torch.tensor([[[[-1.0, 1.0]], [[1.0, -1.0]], [[-1.0, 1.0]]]]), rtol=0, atol=0)


def test_a_channel_becomes_a_plane(rgb: Rgb) -> None:
    images = to_tensor(rgb)
    assert images.shape == (1, 3, 20, 31)
    assert images.is_contiguous()
    assert_close(images[0, 1], torch.tensor(rgb[:, :, 1] / 127.5 - 1, dtype=torch.float32))


def test_a_stack_gives_what_its_images_give(rgb: Rgb) -> None:
    assert_close(to_tensor(np.stack([rgb, rgb[::-1]])), torch.cat([to_tensor(rgb), to_tensor(rgb[::-1])]))


def test_a_mirrored_read_only_view_can_be_converted(rgb: Rgb) -> None:
    rgb.flags.writeable = False
    assert_close(to_tensor(rgb[:, ::-1]), to_tensor(rgb).flip(3))


@given(st.floats(-3, 3, width=32))
def test_values_are_rounded_to_the_nearest_level_and_clamped(value: float) -> None:
    level = int(to_uint8(torch.full((1, 3, 1, 1), value))[0, 0, 0, 0])
    assert abs(level - min(max((value + 1) * 127.5, 0), 255)) <= 0.5 + 1e-4


def test_half_precision_and_channels_last_are_welcome(rgb: Rgb) -> None:
    images = to_tensor(rgb).bfloat16().contiguous(memory_format=torch.channels_last)
    assert np.abs(to_uint8(images)[0].astype(int) - rgb).max() <= 1


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (1, 4, 4, 1)])
def test_an_array_that_is_no_rgb_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="H x W x 3"):
        to_tensor(np.zeros(shape, dtype=np.uint8))


def test_a_tensor_that_is_no_batch_of_images_is_refused() -> None:
    with pytest.raises(ShapeError, match="N x 3 x H x W, got 3 x 4 x 4"):
        to_uint8(torch.zeros(3, 4, 4))


# ------------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(("file_format", "suffix"), LOSSLESS)
def test_rgb_is_read_exactly(tmp_path: Path, rgb: Rgb, file_format: str, suffix: str) -> None:
    path = tmp_path / f"tile.{suffix}"
    path.write_bytes(encode(Image.fromarray(rgb), file_format))
    assert (load_image(path) == rgb).all()
    assert image_size(path) == (31, 20)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA"])
def test_grey_palette_and_opaque_alpha_become_rgb_without_loss(tmp_path: Path, rgb: Rgb, mode: str) -> None:
    image = Image.fromarray(rgb).convert(mode)
    image.save(tmp_path / "tile.png")
    assert (load_image(tmp_path / "tile.png") == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("TIFF", "tif"), ("WEBP", "webp")]
)
def test_orientation_is_respected_by_pixels_and_by_size(
    tmp_path: Path, file_format: str, suffix: str, orientation: int
) -> None:
    white_corner = np.zeros((16, 32, 3), dtype=np.uint8)
    white_corner[:8, :8] = 255
    path = tmp_path / f"tile.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.write_bytes(encode(Image.fromarray(white_corner), file_format, exif=exif.tobytes()))
    turned = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "tl", 6: "tr", 7: "br", 8: "bl"}[orientation]
    image = load_image(path)
    assert image.shape[:2] == ((32, 16) if orientation > 4 else (16, 32))
    assert image_size(path) == image.shape[1::-1]
    corner = image[2 if turned[0] == "t" else -3, 2 if turned[1] == "l" else -3]
    assert corner.min() > 200
    assert (image > 127).mean() == pytest.approx(1 / 8, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (30_000, 2), (1, 300)])
def test_extreme_shapes_are_ordinary(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (1, 2, 3)).save(tmp_path / "tile.png")
    assert image_size(tmp_path / "tile.png") == size
    assert load_image(tmp_path / "tile.png").shape == (size[1], size[0], 3)


@pytest.mark.filterwarnings("error")
def test_a_large_tile_is_read_without_a_warning(tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "tile.png")  # Pillow's own limit is 89 million pixels
    assert image_size(tmp_path / "tile.png") == (10_000, 9_000)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [500, 100])
def test_an_image_beyond_the_limit_is_refused(
    tmp_path: Path, rgb: Rgb, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restain.image, "MAX_PIXELS", limit)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    Image.fromarray(rgb).save(tmp_path / "tile.png")
    with pytest.raises(InputError, match=rf"tile.png has more than {limit} pixels"):
        load_image(tmp_path / "tile.png")


@pytest.mark.parametrize("read", [load_image, image_size])
def test_deep_colour_is_refused_where_pillow_would_cut_it(tmp_path: Path, rgb: Rgb, read: object) -> None:
    deep = rgb.astype(np.uint16) * 257
    png = tmp_path / "deep.png"
    png.write_bytes(png_by_hand(16, 2, deep.astype(">u2").tobytes(), 31, 20))
    tiff = tmp_path / "deep.tif"
    tifffile.imwrite(tiff, deep, photometric="rgb")
    grey = tmp_path / "grey.png"
    Image.fromarray(deep[:, :, 0]).save(grey)
    for path in (png, tiff, grey):
        assert callable(read)
        with pytest.raises(InputError, match=f"{path.name} has 16 bits per channel; export it again with 8"):
            read(path)


def test_a_png_written_by_hand_with_8_bits_is_read(tmp_path: Path, rgb: Rgb) -> None:
    (tmp_path / "tile.png").write_bytes(png_by_hand(8, 2, rgb.tobytes(), 31, 20))
    assert (load_image(tmp_path / "tile.png") == rgb).all()


@pytest.mark.parametrize(("file_format", "suffix"), [("JPEG", "jpg"), ("TIFF", "tif")])
def test_cmyk_is_refused(tmp_path: Path, rgb: Rgb, file_format: str, suffix: str) -> None:
    path = tmp_path / f"print.{suffix}"
    path.write_bytes(encode(Image.fromarray(rgb).convert("CMYK"), file_format))
    with pytest.raises(InputError, match=f"print.{suffix} has the colour mode CMYK; export it again as RGB"):
        load_image(path)


def test_transparency_is_refused(tmp_path: Path, rgb: Rgb) -> None:
    image = Image.fromarray(rgb)
    image.putalpha(254)
    image.save(tmp_path / "alpha.png")
    Image.fromarray(rgb).quantize(16).save(tmp_path / "palette.png", transparency=3)
    for name in ("alpha.png", "palette.png"):
        with pytest.raises(InputError, match=f"{name} has transparent pixels; flatten it"):
            load_image(tmp_path / name)


def test_several_pages_are_refused(tmp_path: Path, rgb: Rgb) -> None:
    page = Image.fromarray(rgb)
    page.save(tmp_path / "stack.tif", save_all=True, append_images=[page])
    with pytest.raises(InputError, match=r"stack.tif has several pages"):
        load_image(tmp_path / "stack.tif")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(("file_format", "suffix"), ANY_FORMAT)
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_a_file_cut_short_is_refused(tmp_path: Path, rgb: Rgb, file_format: str, suffix: str, kept: float) -> None:
    path = tmp_path / f"tile.{suffix}"
    whole = encode(Image.fromarray(rgb), file_format)
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match=f"tile.{suffix} is .*; copy or export it again"):
        load_image(path)


@given(st.data())
def test_damage_ends_in_an_image_or_in_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    picture = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    file_format, suffix = data.draw(st.sampled_from([("PNG", "png"), ("JPEG", "jpg"), ("BMP", "bmp")]))
    damaged = bytearray(encode(picture, file_format))
    # the size is left as it is: an image that claims to be huge takes long to refuse
    place = data.draw(st.integers(26, len(damaged) - 1))
    damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / f"tile.{suffix}"
    path.write_bytes(damaged)
    try:
        image = load_image(path)
    except InputError as error:
        sentence = str(error)
    else:
        assert image.dtype == np.uint8
        assert image.shape[2] == 3
        return
    assert path.name in sentence


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"notes.png is not a PNG, JPEG, TIFF, BMP or WebP image"):
        load_image(tmp_path / "notes.png")
    os.mkfifo(tmp_path / "pipe.png")  # nobody would ever write to it
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("folder", "pipe", "device"):
        with pytest.raises(InputError, match=rf"{name}\.png cannot be read as an image"):
            load_image(tmp_path / f"{name}.png")
    with pytest.raises(MissingError, match=r"gone.png does not exist"):
        image_size(tmp_path / "gone.png")


def test_the_size_comes_from_the_header_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file_format, suffix in ANY_FORMAT:
        (tmp_path / f"tile.{suffix}").write_bytes(encode(Image.new("RGB", (40, 30)), file_format))

    def refuse(_: Image.Image) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    for _, suffix in ANY_FORMAT:
        assert image_size(tmp_path / f"tile.{suffix}") == (40, 30)


# ------------------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp", "PNG"])
def test_saving_loses_nothing(tmp_path: Path, rgb: Rgb, suffix: str) -> None:
    path = tmp_path / "new" / "folder" / f"tile.{suffix}"
    save_image(path, rgb)
    assert (load_image(path) == rgb).all()
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_saved_file_has_the_permissions_of_any_new_file(tmp_path: Path, rgb: Rgb) -> None:
    (tmp_path / "ordinary").touch()
    save_image(tmp_path / "tile.png", rgb)
    assert (tmp_path / "tile.png").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_an_ending_that_would_lose_detail_is_refused(tmp_path: Path, rgb: Rgb) -> None:
    with pytest.raises(InputError, match=r"losslessly as '.jpg'; use one of .png"):
        save_image(tmp_path / "tile.jpg", rgb)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_what_is_no_rgb_is_not_saved(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="H x W x 3"):
        save_image(tmp_path / "tile.png", np.zeros(shape, dtype=np.uint8))


def test_a_full_disk_leaves_nothing_new_and_keeps_the_old(
    tmp_path: Path, rgb: Rgb, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(tmp_path / "tile.png", rgb)

    def half_then_full(path: Path, data: memoryview) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half_then_full)
    for name in ("tile.png", "other.png"):
        with pytest.raises(OutputError, match=f"cannot write .*{name}: No space left on device; nothing was left"):
            save_image(tmp_path / name, 255 - rgb)
    assert [path.name for path in tmp_path.iterdir()] == ["tile.png"]
    assert (load_image(tmp_path / "tile.png") == rgb).all()


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.skipif(sys.platform == "win32", reason="limits on file sizes belong to POSIX")
def test_a_file_that_the_system_cuts_off_is_removed(tmp_path: Path, suffix: str) -> None:
    import resource

    path = tmp_path / "images" / f"tile.{suffix}"
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)

    def save() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        with pytest.raises(OutputError) as refused:
            save_image(path, noise)
        sys.exit(str(refused.value))

    run = begin(save, tmp_path / "told")
    assert run.wait() == 1
    assert run.told.startswith(f"cannot write {path}: File too large")
    assert list(path.parent.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, rgb: Rgb) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for path in (tmp_path / "file" / "tile.png", tmp_path / "folder.png", tmp_path / ("x" * 300 + ".png")):
        with pytest.raises(OutputError, match="cannot write"):
            save_image(path, rgb)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, ValueError, MissingError])
def test_an_interrupted_block_leaves_nothing_and_its_error_passes(
    tmp_path: Path, interruption: type[BaseException]
) -> None:
    def write_half() -> None:
        with atomic_path(tmp_path / "run" / "state.pt") as temporary:
            temporary.write_text("half")
            raise interruption("stop")

    with pytest.raises(interruption):
        write_half()
    assert list((tmp_path / "run").iterdir()) == []


def test_the_final_name_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    with atomic_path(path) as temporary:
        assert temporary.suffix == path.suffix
        assert temporary.parent == path.parent
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"cannot write .*model.safetensors"),
        atomic_path(tmp_path / "model.safetensors"),
    ):
        pass


@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir])
def test_what_is_no_plain_file_is_not_written_over(kind: Callable[[Path], None], tmp_path: Path) -> None:
    kind(tmp_path / "a.png")
    with pytest.raises(OutputError, match=r"cannot write .*a.png: .* not a regular file"):
        save_image(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    assert not (tmp_path / "a.png").is_file()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_is_made_or_it_is_said_why_not(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "out" / "deeper")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(OutputError, match="cannot create the folder"):
        make_folder(tmp_path / "notes.txt" / "out")
