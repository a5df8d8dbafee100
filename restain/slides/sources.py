"""Slides as files: OpenSlide's formats, OME-TIFF and plain images, each as levels of RGB that are read in boxes."""

import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from restain.errors import InputError
from restain.image import load_image
from restain.slides.tiling import Box

RGB = NDArray[np.uint8]
Sizes = tuple[tuple[int, int], ...]

_MM_PER_UNIT = {"inch": 25.4, "centimeter": 10.0, "2": 25.4, "3": 10.0}
_UM_PER_OME_UNIT = {"µm": 1.0, "\u03bcm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


class Source(Protocol):
    """An opened file."""

    format: str
    levels: Sizes
    """Width and height of each level, the largest first."""
    mpp_candidates: Mapping[str, float]
    """Micrometres per pixel of the first level by where it is written, the most trustworthy place first."""
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
        self.format = str(self._slide.properties["openslide.vendor"])
        self.levels: Sizes = tuple(self._slide.level_dimensions)
        self.mpp_candidates: Mapping[str, float] = _openslide_mpp(self._slide.properties)
        self.icc_profile = _profile(self._slide)

    def read(self, level: int, box: Box) -> RGB:
        """See `Source`. Beyond the first level it is true to half a pixel of the first, in which OpenSlide counts."""
        downsample = self._slide.level_downsamples[level]
        corner = round(box.x * downsample), round(box.y * downsample)
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


def _profile(slide: Any) -> bytes | None:
    """The colour profile, or None where there is none or Little CMS does not understand it."""
    try:
        profile = slide.color_profile
    except (OSError, ImageCms.PyCMSError):
        return None
    return None if profile is None else bytes(profile.tobytes())


def _openslide_mpp(properties: Mapping[str, str]) -> dict[str, float]:
    sides = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    vendor = [side for side in sides if side]
    generic = properties.get("openslide.vendor") == "generic-tiff"  # OpenSlide has it from the resolution
    found = {} if generic or not vendor else {"the scanner's properties": sum(vendor) / len(vendor)}
    if ome := ome_mpp(properties.get("tiff.ImageDescription", "")):
        found["OME"] = ome
    resolution = _number(properties.get("tiff.XResolution"))
    if resolution and (unit := _MM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))):
        found["the TIFF resolution"] = unit * 1000 / resolution
    if power := _number(properties.get("openslide.objective-power")):
        found["the objective power"] = 10 / power
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
        self.format = "OME-TIFF" if self._file.is_ome else "TIFF"
        self.levels: Sizes = tuple((page.imagewidth, page.imagelength) for page in self._pages)
        self.icc_profile: bytes | None = first.iccprofile
        candidates = {}
        if self._file.is_ome and (found := ome_mpp(self._file.ome_metadata or "")):
            candidates["OME"] = found
        tags = {name: first.tags[name].value for name in ("XResolution", "ResolutionUnit") if name in first.tags}
        unit = _MM_PER_UNIT.get(str(int(tags.get("ResolutionUnit", 2))))
        if unit and (parts := tags.get("XResolution")) and parts[0]:
            candidates["the TIFF resolution"] = unit * 1000 * parts[1] / parts[0]
        self.mpp_candidates: Mapping[str, float] = candidates

    def read(self, level: int, box: Box) -> RGB:
        """See `Source`."""
        page = self._pages[level]
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
        with Image.open(path) as image:
            dpi = image.info.get("dpi", (0, 0))[0] if image.format == "TIFF" else 0
            self.icc_profile: bytes | None = image.info.get("icc_profile")
            self.format = str(image.format)
        self._rgb = load_image(path)
        height, width = self._rgb.shape[:2]
        self.levels: Sizes = ((width, height),)
        self.mpp_candidates: Mapping[str, float] = {"the TIFF resolution": 25_400 / float(dpi)} if dpi else {}

    def read(self, level: int, box: Box) -> RGB:
        """See `Source`."""
        del level
        return self._rgb[box.slices]

    def close(self) -> None:
        """See `Source`."""


def ome_mpp(xml: str) -> float | None:
    """Micrometres per pixel that OME metadata give, or None."""
    if "OME" not in xml:
        return None
    try:
        root = ET.fromstring(xml)
    except ET.ParseError:
        return None
    return next(_ome_sizes(root), None)


def _ome_sizes(root: ET.Element) -> Iterator[float]:
    for pixels in root.iter():
        size = _number(pixels.get("PhysicalSizeX"))
        unit = _UM_PER_OME_UNIT.get(pixels.get("PhysicalSizeXUnit", "µm"))
        if size and unit:
            yield size * unit


def _number(text: str | None) -> float | None:
    try:
        return float(text or "") or None
    except ValueError:
        return None
