"""Slides as files: OpenSlide's formats, OME-TIFF and plain images, each as levels of RGB that are read in boxes."""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageCms

from restain.errors import InputError
from restain.image import RGB, load_image
from restain.slides.tiling import Box

Sizes = tuple[tuple[int, int], ...]
Mpp = tuple[float, float]
"""Micrometres per pixel along x and y."""

_MM_PER_UNIT = {"inch": 25.4, "centimeter": 10.0, "2": 25.4, "3": 10.0}
_RGB, _YCBCR, _UNCOMPRESSED = 2, 6, 1
_DECODED_TO_RGB = (6, 7, 33003, 33004, 33007)
"""Compressions whose decoders give RGB for YCbCr: JPEG, and Aperio's JPEG 2000."""
_MOST_STRIP_BYTES = 2**28
_UM_PER_OME_UNIT = {"µm": 1.0, "\u03bcm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


class Source(Protocol):
    """An opened file."""

    format: str
    levels: Sizes
    """Width and height of each level, the largest first."""
    mpp_candidates: Mapping[str, Mpp]
    """Micrometres per pixel of the first level by where it is written, the most trustworthy place first."""
    notes: Sequence[str]
    """What is worth knowing of how the file is read."""
    icc_profile: bytes | None

    def read(self, level: int, box: Box) -> RGB:
        """The pixels of a box inside a level, H x W x 3. May be called from several threads."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class OpenSlideSource:
    """What OpenSlide reads: SVS, NDPI, MRXS, SCN, BIF, DICOM, tiled TIFF and others."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ImportError: OpenSlide is not installed.
            openslide.OpenSlideError: it cannot be opened.
        """
        import openslide

        self._slide = openslide.OpenSlide(path)
        properties = self._slide.properties
        self.format = str(properties["openslide.vendor"])
        self._downsamples = tuple(self._slide.level_downsamples)
        whole = self._slide.dimensions
        self._left, self._top, width, height = _bounds(properties, whole)
        self.levels: Sizes = tuple(self._slide.level_dimensions)
        self.notes: Sequence[str] = ()
        if (width, height) != whole:
            self.levels = tuple((max(1, int(width / down)), max(1, int(height / down))) for down in self._downsamples)
            self.notes = (
                f"only the scanned area is read, from ({self._left}, {self._top}) of {whole[0]} x {whole[1]} px on; "
                "all coordinates count from its corner, as in QuPath",
            )
        self.mpp_candidates: Mapping[str, Mpp] = _openslide_mpp(properties, whole)
        self.icc_profile = _profile(self._slide)

    def read(self, level: int, box: Box) -> RGB:
        """See `Source`. Beyond the first level it is true to half a pixel of the first, in which OpenSlide counts."""
        downsample = self._downsamples[level]
        corner = self._left + round(box.x * downsample), self._top + round(box.y * downsample)
        rgba = self._slide.read_region(corner, level, (box.width, box.height))
        if rgba.getchannel("A").getextrema() != (255, 255):  # what was not scanned is transparent
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(rgba.convert("RGB"))

    def close(self) -> None:
        """See `Source`."""
        self._slide.close()


def dicom_series(path: Path) -> str | None:
    """Which series a DICOM file belongs to, as many make one slide; None where it cannot be opened."""
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except openslide.OpenSlideError:
        return None


def image_description(path: Path) -> str:
    """What a TIFF says of itself, such as its OME-XML; empty where it says nothing or cannot be opened."""
    import openslide

    try:
        with openslide.OpenSlide(path) as slide:
            return str(slide.properties.get("tiff.ImageDescription", ""))
    except openslide.OpenSlideError:
        return ""


def _profile(slide: Any) -> bytes | None:
    """The colour profile, or None where there is none or Little CMS does not understand it."""
    try:
        profile = slide.color_profile
    except (OSError, ImageCms.PyCMSError):
        return None
    return None if profile is None else bytes(profile.tobytes())


def _bounds(properties: Mapping[str, str], whole: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of what was scanned, px of the first level; all of it where that is not known."""
    found = [_number(properties.get(f"openslide.bounds-{name}")) for name in ("x", "y", "width", "height")]
    left, top = (int(value or 0) for value in found[:2])
    width, height = (int(value or side) for value, side in zip(found[2:], whole, strict=True))
    if not (0 <= left < whole[0] and 0 <= top < whole[1] and width > 0 and height > 0):
        return 0, 0, *whole
    return left, top, min(width, whole[0] - left), min(height, whole[1] - top)


def _openslide_mpp(properties: Mapping[str, str], size: tuple[int, int]) -> dict[str, Mpp]:
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    generic = properties.get("openslide.vendor") == "generic-tiff"  # OpenSlide has it from the resolution
    found: dict[str, Mpp] = {}
    if not generic and (x or y):
        found["the scanner's properties"] = x or y or 0.0, y or x or 0.0
    if ome := ome_mpp(properties.get("tiff.ImageDescription", ""), size):
        found["OME"] = ome
    across, down = (_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    unit = _MM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    if across and unit:
        found["the TIFF resolution"] = unit * 1000 / across, unit * 1000 / (down or across)
    if power := _number(properties.get("openslide.objective-power")):
        found["the objective power"] = 10 / power, 10 / power
    return found


class TiffSource:
    """TIFF and OME-TIFF in which OpenSlide sees nothing, or fewer levels than there are."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ImportError: tifffile is not installed.
            tifffile.TiffFileError: it is no TIFF, or holds no image.
            InputError: it is not 8-bit RGB.
        """
        import tifffile

        self._file = tifffile.TiffFile(path)
        self._lock = threading.Lock()
        if not self._file.series:
            raise tifffile.TiffFileError("it holds no image")
        series = _main_series(self._file)
        self._pages: list[Any] = [level.pages[0] for level in series.levels]
        first = self._pages[0]
        if first.samplesperpixel != 3 or first.bitspersample != 8 or len(series.pages) > 1:
            channels = max(first.samplesperpixel, len(series.pages))
            raise InputError(
                f"{path} has {channels} channels of {first.bitspersample} bits; expected one RGB image of 8 bits"
            )
        if first.photometric != _RGB and not (first.photometric == _YCBCR and first.compression in _DECODED_TO_RGB):
            raise InputError(f"{path} has the colours of {first.photometric.name}, not RGB; export it again as RGB")
        strip = 0 if first.is_tiled else first.rowsperstrip * first.imagewidth * 3
        if first.compression != _UNCOMPRESSED and strip > _MOST_STRIP_BYTES:
            raise InputError(
                f"{path} is compressed in strips of {strip >> 20} MiB, which must be decoded as a whole for every box; "
                "save it in tiles, or without compression"
            )
        self.format = "OME-TIFF" if self._file.is_ome else "TIFF"
        self.levels: Sizes = tuple((page.imagewidth, page.imagelength) for page in self._pages)
        self.icc_profile: bytes | None = first.iccprofile
        self.notes: Sequence[str] = ()
        candidates: dict[str, Mpp] = {}
        if self._file.is_ome and (found := ome_mpp(self._file.ome_metadata or "", self.levels[0])):
            candidates["OME"] = found
        names = ("XResolution", "YResolution", "ResolutionUnit")
        tags = {name: first.tags[name].value for name in names if name in first.tags}
        unit = _MM_PER_UNIT.get(str(int(tags.get("ResolutionUnit", 2))))
        if unit and (across := tags.get("XResolution")) and across[0]:
            down = tags.get("YResolution") or across
            down = down if down[0] else across
            candidates["the TIFF resolution"] = tuple(unit * 1000 * part[1] / part[0] for part in (across, down))
        self.mpp_candidates: Mapping[str, Mpp] = candidates

    def read(self, level: int, box: Box) -> RGB:
        """See `Source`."""
        page = self._pages[level]
        if not page.is_tiled and page.compression == _UNCOMPRESSED and page.planarconfig == 1:
            return self._rows(page, box)
        tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        columns = -(-page.imagewidth // wide)
        planes = 3 if page.planarconfig == 2 else 1
        rgb = np.zeros((box.height, box.width, 3), np.uint8)
        for row in range(box.y // tall, -(-(box.y + box.height) // tall)):
            for column in range(box.x // wide, -(-(box.x + box.width) // wide)):
                index, y, x = row * columns + column, row * tall, column * wide
                parts = [
                    self._segment(page, index + plane * (len(page.dataoffsets) // planes)) for plane in range(planes)
                ]
                segment = np.concatenate(parts, axis=-1)
                top, left = max(y, box.y), max(x, box.x)
                bottom = min(y + segment.shape[0], box.y + box.height)
                right = min(x + segment.shape[1], box.x + box.width)
                inside = segment[top - y : bottom - y, left - x : right - x]
                rgb[top - box.y : bottom - box.y, left - box.x : right - box.x] = inside
        return rgb

    def _rows(self, page: Any, box: Box) -> RGB:
        """A box of an uncompressed page in strips, row by row: a strip may be the whole image."""
        handle, width = self._file.filehandle, page.imagewidth
        rgb = np.empty((box.height, box.width, 3), np.uint8)
        for y in range(box.y, box.y + box.height):
            strip, row = divmod(y, page.rowsperstrip)
            with self._lock:
                handle.seek(page.dataoffsets[strip] + (row * width + box.x) * 3)
                data = handle.read(box.width * 3)
            if len(data) < box.width * 3:
                raise EOFError(f"the file ends in its row {y}")
            rgb[y - box.y] = np.frombuffer(data, np.uint8).reshape(box.width, 3)
        return rgb

    def _segment(self, page: Any, index: int) -> RGB:
        """A decoded tile or strip, H x W x samples."""
        handle = self._file.filehandle
        with self._lock:
            handle.seek(page.dataoffsets[index])
            data = handle.read(page.databytecounts[index])
        if len(data) < page.databytecounts[index]:  # decoders would make up what is missing
            raise EOFError(f"the file ends in its tile {index}")
        segment, _, _ = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        rgb: RGB = np.asarray(segment)[0]
        return rgb

    def close(self) -> None:
        """See `Source`."""
        self._file.close()


def _main_series(file: Any) -> Any:
    """The slide itself, and not a label or macro image, which may be larger: the one with most levels.

    Among equals it is the first of an OME-TIFF, where the slide comes first, and else the largest.
    """
    sizes = [0 if file.is_ome else one.size for one in file.series]
    places = range(len(sizes))
    return file.series[max(places, key=lambda n: (len(file.series[n].levels), sizes[n], -n))]


class ImageSource:
    """A plain image, which is read whole."""

    def __init__(self, path: Path) -> None:
        """Read it.

        Raises:
            InputError: as in `restain.image.load_image`.
        """
        self.notes: Sequence[str] = ()
        with Image.open(path) as image:
            dpi = image.info.get("dpi", (0, 0)) if image.format == "TIFF" else (0, 0)
            self.icc_profile: bytes | None = image.info.get("icc_profile")
            self.format = str(image.format)
        self._rgb = load_image(path)
        height, width = self._rgb.shape[:2]
        self.levels: Sizes = ((width, height),)
        self.mpp_candidates: Mapping[str, Mpp] = (
            {"the TIFF resolution": (25_400 / float(dpi[0]), 25_400 / float(dpi[1]))} if all(dpi) else {}
        )

    def read(self, level: int, box: Box) -> RGB:
        """See `Source`."""
        del level
        return self._rgb[box.slices]

    def close(self) -> None:
        """See `Source`."""


def ome_mpp(xml: str, size: tuple[int, int]) -> Mpp | None:
    """Micrometres per pixel along x and y that OME metadata give for the image of this width and height, or None.

    A file may hold several images, such as a macro image before the slide; each has Pixels of its own.
    """
    if "OME" not in xml:
        return None
    try:
        root = ET.fromstring(xml)
    except ET.ParseError:
        return None
    for pixels in root.iter():
        if (pixels.get("SizeX"), pixels.get("SizeY")) != (str(size[0]), str(size[1])):
            continue
        x, y = (_micrometres(pixels, axis) for axis in "XY")
        if x or y:
            return x or y or 0.0, y or x or 0.0
    return None


def _micrometres(pixels: ET.Element, axis: str) -> float | None:
    length = _number(pixels.get(f"PhysicalSize{axis}"))
    unit = _UM_PER_OME_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    return length * unit if length and unit else None


def _number(text: str | None) -> float | None:
    try:
        return float(text or "") or None
    except ValueError:
        return None
