"""Images: load, save, convert. The only place between H x W x 3 uint8 RGB and N x 3 x H x W float in [-1, 1]."""

import io
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from restain.errors import InputError, MissingError, OutputError, RestainError, ShapeError

RGB = NDArray[np.uint8]
"""Pixels, H x W x 3 or N x H x W x 3."""

MAX_PIXELS = 2**30
"""The largest image that is read whole: 32,768 px square, 3 GiB as RGB.

Pillow warns above 89 million pixels, an ordinary size in pathology, so its limit is raised to this one for the whole
process. Anything larger is a slide and is read in regions.
"""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK = 2**24
"""Scanners' colour profiles, which tiles inherit, are larger than the megabyte that Pillow allows."""

_READ_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_WRITE_FORMATS = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
_WRITE_OPTIONS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 1},  # four times as fast as the usual level, for 7 % more bytes on tissue
    "TIFF": {"compression": "tiff_adobe_deflate"},
    "BMP": {},
}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that makes an image upright, by its EXIF orientation."""
_OPAQUE_MODES = frozenset({"1", "L", "P", "RGB"})
_ALPHA_MODES = frozenset({"LA", "PA", "RGBA"})


SANE_MPP = (0.05, 10.0)
"""Plausible micrometres per pixel; other values are errors."""


def check_mpp(mpp: float, name: str = "") -> None:
    """Check that a resolution is plausible.

    Args:
        mpp: micrometres per pixel.
        name: what it is called and where it stands, if in a file.

    Raises:
        InputError: `mpp` is not within `SANE_MPP`.
    """
    low, high = SANE_MPP
    if not low <= mpp <= high:
        value = f"{name} {mpp:g}" if name else f"{mpp:g} µm per pixel"
        raise InputError(f"{value} is out of range; expected {low:g} to {high:g} (0.25 µm per pixel is usual at 40x)")


def load_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as H x W x 3 RGB.

    Palette, grey and fully opaque alpha become RGB without loss. The orientation tag is respected, a colour profile is
    not applied.

    Raises:
        MissingError: there is no such file.
        InputError: not an image, damaged, cut short, more than 8 bits per channel, CMYK, transparent, several pages, or
            more than `MAX_PIXELS`.
    """
    with _opened(path) as image:
        orientation, before = _orientation(image), image.info.get("exif")
        image.load()
        if _turns(image.info.get("exif") or b"") not in (orientation, 1) and not before:
            raise InputError(
                f"{path} stores its EXIF orientation after its pixels, where few programs look; save it again"
            )
        if image.has_transparency_data:
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema() != (255, 255):
                raise InputError(f"{path} has transparent pixels; flatten it onto white and save it again")
        turn = _TURNS.get(orientation)
        return np.array((image.transpose(turn) if turn is not None else image).convert("RGB"))


def image_size(path: Path) -> tuple[int, int]:
    """Width and height in px as `load_image` returns them; reads the header only.

    Raises:
        MissingError: there is no such file.
        InputError: the header already shows that `load_image` would refuse the file.
    """
    with _opened(path) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def save_image(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write H x W x 3 RGB losslessly as PNG, TIFF or BMP, by the suffix of `path`; missing folders are created.

    Raises:
        InputError: the suffix is none of these.
        ShapeError: the array is not H x W x 3 uint8.
        OutputError: the file cannot be written; nothing is left behind.
    """
    file_format = _WRITE_FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise InputError(f"{path}: cannot save losslessly as '{path.suffix}'; use one of {', '.join(_WRITE_FORMATS)}")
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or rgb.size == 0:
        raise ShapeError(f"{path}: expected an image of H x W x 3 uint8, got {_times(rgb.shape)} {rgb.dtype}")
    encoded = io.BytesIO()  # in memory first, because Pillow hides why writing to a file failed
    Image.fromarray(np.ascontiguousarray(rgb)).save(encoded, format=file_format, **_WRITE_OPTIONS[file_format])
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())


_UNFINISHED = re.compile(r"\.[0-9a-f]{16}(\.\w+)?")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Write a file atomically: under its final name it is complete or absent.

    Yields a hidden temporary path with the same suffix in the same folder. If the block succeeds, the file is flushed
    to disk and renamed to the final name, replacing an existing file; otherwise it is removed. The folder is created if
    missing.

    Raises:
        OutputError: the folder cannot be created, the file cannot be written or renamed (any OSError inside the block),
            or the name belongs to something other than a regular file, such as a device, a pipe or a folder.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        if path.exists() and not path.is_file():
            raise OutputError(f"cannot write {path}: it exists and is not a regular file; choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        temporary.replace(path)
    except RestainError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; nothing was left behind, so check the disk or choose another folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def is_unfinished(path: Path) -> bool:
    """Whether a path has the name of a file that `atomic_path` was writing, perhaps when its process was killed."""
    return bool(_UNFINISHED.fullmatch(path.name))


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished files of killed processes below a folder in which no process writes."""
    for path in list(folder.rglob(".*")):
        if is_unfinished(path) and path.is_file():
            path.unlink(missing_ok=True)


def check_output(out: Path, ending: str, inputs: Iterable[Path] = ()) -> None:
    """Refuse a wrong name for a file that is to be written, before any work; its ending keeps other files safe.

    Args:
        out: the file.
        ending: what its name ends in, such as `.html`.
        inputs: files that are read and must not be replaced.

    Raises:
        OutputError: another ending, something that is no plain file, or an input.
    """
    if not out.name.lower().endswith(ending):
        raise OutputError(f"{out}: expected a name that ends in {ending}")
    if out.exists() and not out.is_file():
        raise OutputError(f"{out}: what is there is not a plain file; choose another name")
    if any(given.exists() and out.exists() and out.samefile(given) for given in inputs):
        raise OutputError(f"{out} is an input and would be replaced; choose another name")


def make_folder(out: Path) -> None:
    """Create the folder for the results if it is missing, so that a wrong path fails before the work begins.

    Raises:
        OutputError: it cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {out}: {error.strerror}; choose another") from error


def to_tensor(rgb: NDArray[np.uint8]) -> Tensor:
    """Turn RGB of H x W x 3, or N x H x W x 3, into N x 3 x H x W float32 in [-1, 1]; 0 becomes -1, 255 becomes 1.

    Raises:
        ShapeError: the array has another shape or is not uint8.
    """
    if rgb.ndim not in (3, 4) or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
        raise ShapeError(f"expected RGB as H x W x 3 or N x H x W x 3 uint8, got {_times(rgb.shape)} {rgb.dtype}")
    batch = torch.from_numpy(np.require(rgb, requirements=["C", "W"])).reshape(-1, *rgb.shape[-3:])
    return batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(127.5).sub_(1)


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Turn N x 3 x H x W in [-1, 1], of any float type and on any device, into N x H x W x 3 RGB, rounded and clamped.

    Raises:
        ShapeError: the tensor has another shape.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ShapeError(f"expected images of N x 3 x H x W, got {_times(images.shape)}")
    levels = images.detach().float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
    array: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return array


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image and check its header; any failure until the block ends is raised as a restain error."""
    try:
        if path.exists() and not path.is_file():  # a pipe or device might never end
            raise InputError(f"{path} cannot be read as an image: it is not a plain file")
        with Image.open(path, formats=_READ_FORMATS) as image:
            _check_header(path, image)
            yield image
    except (RestainError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist; an image file is expected") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path} is not a PNG, JPEG, TIFF, BMP or WebP image, or its header is damaged; copy or export it again"
        ) from error
    except (IsADirectoryError, PermissionError) as error:
        raise InputError(f"{path} cannot be read as an image: {error.strerror}") from error
    except Exception as error:  # a damaged file makes the decoders raise nearly any exception
        raise InputError(f"{path} is damaged or cut short ({error}); copy or export it again") from error


def _check_header(path: Path, image: Image.Image) -> None:
    """Refuse images that 8-bit RGB cannot represent."""
    bits = _bits_per_channel(path, image)
    if bits > 8:
        raise InputError(f"{path} has {bits} bits per channel; export it again with 8")
    if image.mode not in _OPAQUE_MODES | _ALPHA_MODES:
        raise InputError(f"{path} has the colour mode {image.mode}; export it again as RGB")
    if isinstance(image, TiffImageFile) and image.n_frames > 1:
        raise InputError(f"{path} has several pages; save the one you need as a separate image")
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(path)


def _bits_per_channel(path: Path, image: Image.Image) -> int:
    """The true bit depth; Pillow opens 16-bit RGB as 8-bit and drops the lower bits."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]  # signature 8, chunk length 4, "IHDR" 4, width 4, height 4, bit depth 1
    if isinstance(image, TiffImageFile):
        return max(map(int, image.tag_v2.get(ExifTags.Base.BitsPerSample, (1,))))
    return 8


def _orientation(image: Image.Image) -> int:
    """Orientation by the EXIF or XMP before the pixels; 1 is upright. For TIFF, Pillow has already swapped the size."""
    if isinstance(image, TiffImageFile):
        return 1
    header = Image.Image.getexif(image)  # of the base class: that of PNG would decode the pixels first
    return int(header.get(ExifTags.Base.Orientation, 1))


def _turns(exif: bytes) -> int:
    found = Image.Exif()
    found.load(exif)
    return int(found.get(ExifTags.Base.Orientation, 1))


def _too_large(path: Path) -> InputError:
    return InputError(f"{path} has more than {MAX_PIXELS:,} pixels, too many to read whole; cut it into tiles first")


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
