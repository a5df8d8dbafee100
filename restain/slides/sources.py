"""Files of slides: OpenSlide's formats and plain images, as levels of RGB that are read in boxes."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageCms

from restain.errors import InputError
from restain.image import RGB, load_image
from restain.slides.probe import probe
from restain.slides.tiling import Box

Sizes = tuple[tuple[int, int], ...]
Mpp = tuple[float, float]
"""Micrometres per pixel along x and y."""

MM_PER_UNIT = {"inch": 25.4, "centimeter": 10.0, "2": 25.4, "3": 10.0}
"""By the names of OpenSlide and the values of TIFF."""
_UM_PER_OME_UNIT = {"µm": 1.0, "\u03bcm": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}


class Source(Protocol):
    """An opened file."""

    format: str
    levels: Sizes
    """Width and height of each level, the largest first."""
    mpp_candidates: Mapping[str, Mpp]
    """Micrometres per pixel of the first level by origin, the most reliable first."""
    notes: Sequence[str]
    """Notes on how the file is read."""
    icc_profile: bytes | None

    def read(self, level: int, box: Box) -> RGB:
        """The pixels of a box inside a level, H x W x 3; thread-safe."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class OpenSlideSource:
    """Formats of OpenSlide: SVS, NDPI, MRXS, SCN, BIF, DICOM, tiled TIFF and others."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ImportError: OpenSlide is not installed.
            openslide.OpenSlideError: it cannot be opened.
            InputError: OpenSlide crashes at it.
        """
        import openslide

        probe(path)
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
                f"only the scanned area is read, from ({self._left}, {self._top}) of {whole[0]} x {whole[1]} px; "
                "all coordinates are relative to its corner, as in QuPath",
            )
        self.mpp_candidates: Mapping[str, Mpp] = _openslide_mpp(properties, whole)
        self.icc_profile = _profile(self._slide)

    def read(self, level: int, box: Box) -> RGB:
        """See `Source`. Beyond the first level it is accurate to half a pixel of the first."""
        downsample = self._downsamples[level]
        corner = self._left + round(box.x * downsample), self._top + round(box.y * downsample)
        rgba = self._slide.read_region(corner, level, (box.width, box.height))
        if rgba.getchannel("A").getextrema() != (255, 255):  # unscanned areas are transparent
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
        return np.asarray(rgba.convert("RGB"))

    def close(self) -> None:
        """See `Source`."""
        self._slide.close()


def dicom_series(path: Path) -> str | None:
    """The series of a DICOM file, since several files make one slide; None if it cannot be opened."""
    import openslide

    try:
        probe(path)
        with openslide.OpenSlide(path) as slide:
            return slide.properties.get("dicom.SeriesInstanceUID")
    except (openslide.OpenSlideError, InputError):  # reported when it is stained
        return None


def image_description(path: Path) -> str:
    """The image description of a TIFF, such as OME-XML; empty if it has none or cannot be opened."""
    import openslide

    try:
        probe(path)
        with openslide.OpenSlide(path) as slide:
            return str(slide.properties.get("tiff.ImageDescription", ""))
    except (openslide.OpenSlideError, InputError):
        return ""


def _profile(slide: Any) -> bytes | None:
    """The colour profile, or None if there is none or Little CMS cannot read it."""
    try:
        profile = slide.color_profile
    except (OSError, ImageCms.PyCMSError):
        return None
    return None if profile is None else bytes(profile.tobytes())


def _bounds(properties: Mapping[str, str], whole: tuple[int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of the scanned area in px of the first level; everything if unknown."""
    found = [_number(properties.get(f"openslide.bounds-{name}")) for name in ("x", "y", "width", "height")]
    left, top = (int(value or 0) for value in found[:2])
    width, height = (int(value or side) for value, side in zip(found[2:], whole, strict=True))
    if not (0 <= left < whole[0] and 0 <= top < whole[1] and width > 0 and height > 0):
        return 0, 0, *whole
    return left, top, min(width, whole[0] - left), min(height, whole[1] - top)


def _openslide_mpp(properties: Mapping[str, str], size: tuple[int, int]) -> dict[str, Mpp]:
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    generic = properties.get("openslide.vendor") == "generic-tiff"  # OpenSlide derives it from the resolution
    found: dict[str, Mpp] = {}
    if not generic and (x or y):
        found["the scanner's properties"] = x or y or 0.0, y or x or 0.0
    if ome := ome_mpp(properties.get("tiff.ImageDescription", ""), size):
        found["OME"] = ome
    across, down = (_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    unit = MM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    if across and unit:
        found["the TIFF resolution"] = unit * 1000 / across, unit * 1000 / (down or across)
    if power := _number(properties.get("openslide.objective-power")):
        found["the objective power"] = 10 / power, 10 / power
    return found


class ImageSource:
    """A plain image, which is read as a whole."""

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

    A file may contain several images, such as a macro image before the slide, each with its own Pixels.
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
