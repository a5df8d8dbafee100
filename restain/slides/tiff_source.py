"""Slides as TIFF and OME-TIFF, read tile by tile; sizes in their headers are checked before use.

Levels are found by the structure of the file only. The XML of an OME-TIFF may name other files and many planes; neither
is followed.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from restain.errors import InputError
from restain.image import RGB
from restain.slides.sources import MM_PER_UNIT, Mpp, Sizes, ome_mpp
from restain.slides.tiling import Box

_RGB, _YCBCR, _UNCOMPRESSED, _REDUCED = 2, 6, 1, 1
_DECODED_TO_RGB = (6, 7, 33003, 33004, 33007)
"""Compressions whose decoders give RGB for YCbCr: JPEG, and Aperio's JPEG 2000."""
_MOST_SEGMENT_BYTES = 2**28
"""Of a decoded tile or strip."""
_MOST_PAGES = 1000
_MOST_LEVELS = 64


class TiffSource:
    """TIFF and OME-TIFF that OpenSlide cannot read, or not with all levels."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            ImportError: tifffile is not installed.
            tifffile.TiffFileError: it is not a TIFF, or has no image.
            InputError: it is not 8-bit RGB, or its header does not match the file.
        """
        import tifffile

        self._file = tifffile.TiffFile(path)
        self._lock = threading.Lock()
        image = _main_image(self._file)
        self._pages: list[Any] = image.levels
        first = self._pages[0]
        if first.samplesperpixel != 3 or first.bitspersample != 8 or image.planes > 1:
            channels = max(first.samplesperpixel, image.planes)
            raise InputError(
                f"{path} has {channels} channels of {first.bitspersample} bits; expected one RGB image of 8 bits"
            )
        if first.photometric != _RGB and not (first.photometric == _YCBCR and first.compression in _DECODED_TO_RGB):
            raise InputError(f"{path} has the colour space {first.photometric.name}, not RGB; export it again as RGB")
        for page in self._pages:
            _check_segments(path, page)
        self.format = "OME-TIFF" if self._file.is_ome else "TIFF"
        self.levels: Sizes = tuple((page.imagewidth, page.imagelength) for page in self._pages)
        self.icc_profile: bytes | None = first.iccprofile
        self.notes: Sequence[str] = ()
        candidates: dict[str, Mpp] = {}
        if self._file.is_ome and (found := ome_mpp(self._file.ome_metadata or "", self.levels[0])):
            candidates["OME"] = found
        names = ("XResolution", "YResolution", "ResolutionUnit")
        tags = {name: first.tags[name].value for name in names if name in first.tags}
        unit = MM_PER_UNIT.get(str(int(tags.get("ResolutionUnit", 2))))
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
        if len(data) < page.databytecounts[index]:  # decoders would fill in missing data
            raise EOFError(f"the file ends in its tile {index}")
        segment, _, _ = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        rgb: RGB = np.asarray(segment)[0]
        return rgb

    def close(self) -> None:
        """See `Source`."""
        self._file.close()


@dataclass
class _Image:
    """The pages of one image of a TIFF."""

    levels: list[Any]
    planes: int = 1
    """Pages of its full size."""
    own_levels: bool = field(init=False)
    """Whether its levels are SubIFDs, where no further ones follow in the main chain."""

    def __post_init__(self) -> None:
        self.own_levels = len(self.levels) > 1

    @property
    def size(self) -> int:
        """Of the first level, px."""
        return int(self.levels[0].imagewidth * self.levels[0].imagelength)


def _main_image(file: Any) -> _Image:
    """The slide rather than a label or macro image, which may be larger: the image with most levels.

    Among equals it is the first of an OME-TIFF, where the slide comes first, and else the largest.
    """
    images: list[_Image] = []
    for page in islice(file.pages, _MOST_PAGES):
        before = images[-1] if images else None
        if page.subfiletype & _REDUCED and before:
            if not before.own_levels and _is_below(page, before.levels[-1]):
                before.levels.append(page)
        elif before and _shape(page) == _shape(before.levels[0]):
            before.planes += 1
        else:
            images.append(_Image([page]))
            for child in islice(page.pages or (), _MOST_LEVELS):
                if _is_below(child, images[-1].levels[-1]):
                    images[-1].levels.append(child)
            images[-1].own_levels = len(images[-1].levels) > 1
    sizes = [0 if file.is_ome else one.size for one in images]
    return images[max(range(len(images)), key=lambda n: (len(images[n].levels), sizes[n], -n))]


def _shape(page: Any) -> tuple[int, ...]:
    return page.imagewidth, page.imagelength, page.samplesperpixel, page.bitspersample


def _is_below(page: Any, above: Any) -> bool:
    """Whether a page is the same image, stored alike, but smaller."""
    (width, height, *one), (wide, tall, *other) = _shape(page), _shape(above)
    alike = one == other and page.is_tiled == above.is_tiled
    return bool(alike and width < wide and height <= tall and abs(width / wide - height / tall) < 2 / min(wide, tall))


def _check_segments(path: Path, page: Any) -> None:
    """Refuse a level with implausibly large tiles, or with missing ones.

    Raises:
        InputError: with the size, or the number of tiles.
    """
    tall, wide = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    in_one_piece = page.is_tiled or page.compression != _UNCOMPRESSED
    if min(tall, wide) < 1 or (in_one_piece and tall * wide * 3 > _MOST_SEGMENT_BYTES):
        way_out = "" if page.is_tiled else ", which must be decoded as a whole for every box"
        raise InputError(
            f"{path} is stored in {'tiles' if page.is_tiled else 'strips'} of {wide} x {tall} px{way_out}; "
            f"expected at most {_MOST_SEGMENT_BYTES >> 20} MiB each: save it in tiles of 512 px"
        )
    if min(page.imagelength, page.imagewidth) < 1:
        raise InputError(f"{path} is damaged: it has {page.imagewidth} x {page.imagelength} px; copy it again")
    planes = 3 if page.planarconfig == 2 else 1
    wanted = -(-page.imagelength // tall) * -(-page.imagewidth // wide) * planes
    if len(page.dataoffsets) < wanted or len(page.databytecounts) < wanted:
        raise InputError(
            f"{path} is damaged: its {page.imagewidth} x {page.imagelength} px take {wanted:,} tiles or strips, and "
            f"{min(len(page.dataoffsets), len(page.databytecounts)):,} are there; copy it again"
        )
