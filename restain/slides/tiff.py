"""Assembles finished tiles into a pyramidal OME-TIFF: BigTIFF, copied tile by tile without encoding again.

Levels are linked twice, because readers differ: as SubIFDs of the first image, as OME-TIFF specifies, and in the main
chain of IFDs, where OpenSlide looks. Background tiles are stored once and shared, so that the file grows with its
tissue.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import BinaryIO, Literal
from xml.etree import ElementTree as ET

import numpy as np

from restain.slides.codec import Codec
from restain.slides.pyramid import Position, Pyramid

TagType = Literal["ascii", "short", "long", "rational", "bytes", "long8", "ifd8"]
_TYPES: dict[TagType, tuple[int, str]] = {
    "ascii": (2, "<u1"),
    "short": (3, "<u2"),
    "long": (4, "<u4"),
    "rational": (5, "<u4"),
    "bytes": (7, "<u1"),
    "long8": (16, "<u8"),
    "ifd8": (18, "<u8"),
}
_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_COMPRESSION = {"jpeg": 7, "compact": 7, "lossless": 8}
_RGB, _YCBCR = 2, 6
_CENTIMETRE = 3
_UM_PER_CM = 10_000


@dataclass(frozen=True)
class Description:
    """Metadata of a slide."""

    name: str
    mpp: float
    """Micrometres per pixel of the full size."""
    stain: str | None = None
    """Name of the channel, such as `virtual HER2`."""
    origin_um: tuple[float, float] = (0.0, 0.0)
    """Position of the upper left corner on the original slide."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Provenance, stored as key-value pairs that viewers show."""
    icc_profile: bytes | None = None


def write_tiff(
    file: BinaryIO,
    pyramid: Pyramid,
    codec: Codec,
    levels: Sequence[Iterable[tuple[Position, bytes]]],
    background: bytes,
    description: Description,
    thumbnail: tuple[tuple[int, int], bytes],
) -> None:
    """Write a complete file.

    Args:
        file: opened for writing and seeking, empty.
        pyramid: the shape of the pyramid.
        codec: by which all tiles were encoded.
        levels: for each level its tiles, in any order; missing ones are background.
        background: one encoded tile of it.
        description: metadata of the file.
        thumbnail: width and height, and the encoded image.
    """
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
    blank = _append(file, background)
    directories = [
        _level_tags(pyramid, codec, level, description, *_copy(file, pyramid, level, tiles, blank, len(background)))
        for level, tiles in enumerate(levels)
    ]
    (width, height), data = thumbnail
    small = _image_tags((width, height), codec, description, pyramid.size[0] / width, reduced=True)
    directories.append(
        small | {273: ("long8", [_append(file, data)]), 278: ("long", [height]), 279: ("long8", [len(data)])}
    )
    directories[0][270] = ("ascii", ome_xml(pyramid.size, description) + b"\0")
    directories[0][305] = ("ascii", f"restain {version('restain')}".encode() + b"\0")
    following, offsets = 0, list[int]()
    for tags in reversed(directories):
        if tags is directories[0] and len(offsets) > 1:
            tags[330] = ("ifd8", offsets[:0:-1])  # the levels in order; the thumbnail, written first, is none
        following = _write_directory(file, tags, following)
        offsets.append(following)
    file.seek(8)
    file.write(struct.pack("<Q", following))


Tags = dict[int, tuple[TagType, Sequence[int] | bytes | np.ndarray]]


def _copy(
    file: BinaryIO, pyramid: Pyramid, level: int, tiles: Iterable[tuple[Position, bytes]], blank: int, blank_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Append the tiles of a level; returns their offsets and lengths."""
    offsets = np.full(pyramid.grid(level), blank, np.uint64)
    lengths = np.full(pyramid.grid(level), blank_bytes, np.uint64)
    for position, data in tiles:
        place = position.row, position.column
        offsets[place], lengths[place] = _append(file, data), len(data)
    return offsets.ravel(), lengths.ravel()


def _level_tags(
    pyramid: Pyramid, codec: Codec, level: int, description: Description, offsets: np.ndarray, lengths: np.ndarray
) -> Tags:
    tags = _image_tags(pyramid.levels[level], codec, description, 2.0**level, reduced=level > 0)
    place: Tags = {324: ("long8", offsets), 325: ("long8", lengths)}
    return tags | place | {322: ("long", [pyramid.tile_px]), 323: ("long", [pyramid.tile_px])}


def _image_tags(
    size: tuple[int, int], codec: Codec, description: Description, downsample: float, *, reduced: bool
) -> Tags:
    """The tags that levels and thumbnail share."""
    per_cm = [round(_UM_PER_CM**2 / (description.mpp * downsample)), _UM_PER_CM]
    tags: Tags = {
        254: ("long", [int(reduced)]),
        256: ("long", [size[0]]),
        257: ("long", [size[1]]),
        258: ("short", [8, 8, 8]),
        259: ("short", [_COMPRESSION[codec.compression]]),
        262: ("short", [_YCBCR if codec.compression == "compact" else _RGB]),
        277: ("short", [3]),
        282: ("rational", per_cm),
        283: ("rational", per_cm),
        284: ("short", [1]),
        296: ("short", [_CENTIMETRE]),
    }
    if codec.compression == "lossless":
        tags[317] = ("short", [2])  # differences along each row
    if codec.compression == "compact":
        tags[530] = ("short", [2, 2])
    if description.icc_profile:
        tags[34675] = ("bytes", description.icc_profile)
    return tags


def _write_directory(file: BinaryIO, tags: Tags, following: int) -> int:
    """Write an IFD and the values too long for it; gives its offset."""
    entries = []
    for tag, (kind, values) in sorted(tags.items()):
        number, dtype = _TYPES[kind]
        data = values if isinstance(values, bytes) else np.asarray(values, dtype).tobytes()
        count = len(data) // np.dtype(dtype).itemsize // (2 if kind == "rational" else 1)
        value = data.ljust(8, b"\0") if len(data) <= 8 else struct.pack("<Q", _append(file, data))
        entries.append(struct.pack("<HHQ", tag, number, count) + value)
    return _append(file, struct.pack("<Q", len(entries)) + b"".join(entries) + struct.pack("<Q", following))


def _append(file: BinaryIO, data: bytes) -> int:
    """Write at the end, on an even offset as TIFF asks; gives the offset."""
    offset = file.seek(0, 2)
    if offset % 2:
        offset += file.write(b"\0")
    file.write(data)
    return offset


def ome_xml(size: tuple[int, int], description: Description) -> bytes:
    """The OME metadata, in ASCII."""
    root = ET.Element("OME", xmlns=_SCHEMA, Creator=f"restain {version('restain')}")
    root.set("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance")
    root.set("xsi:schemaLocation", f"{_SCHEMA} {_SCHEMA}/ome.xsd")
    image = ET.SubElement(root, "Image", ID="Image:0", Name=description.name)
    mpp = repr(description.mpp)
    pixels = ET.SubElement(
        image,
        "Pixels",
        ID="Pixels:0",
        DimensionOrder="XYCZT",
        Type="uint8",
        Interleaved="true",
        SignificantBits="8",
        BigEndian="false",
        SizeX=str(size[0]),
        SizeY=str(size[1]),
        SizeZ="1",
        SizeC="3",
        SizeT="1",
        PhysicalSizeX=mpp,
        PhysicalSizeXUnit="µm",
        PhysicalSizeY=mpp,
        PhysicalSizeYUnit="µm",
    )
    channel = ET.SubElement(pixels, "Channel", ID="Channel:0:0", SamplesPerPixel="3")
    if description.stain:
        channel.set("Name", description.stain)
    ET.SubElement(pixels, "TiffData", IFD="0", PlaneCount="1")
    x, y = map(repr, description.origin_um)
    plane = {"TheZ": "0", "TheT": "0", "TheC": "0", "PositionX": x, "PositionY": y}
    ET.SubElement(pixels, "Plane", plane, PositionXUnit="µm", PositionYUnit="µm")
    if description.provenance:
        ET.SubElement(image, "AnnotationRef", ID="Annotation:0")
        annotations = ET.SubElement(root, "StructuredAnnotations")
        mapping = ET.SubElement(annotations, "MapAnnotation", ID="Annotation:0", Namespace="restain/provenance")
        value = ET.SubElement(mapping, "Value")
        for key, word in description.provenance.items():
            ET.SubElement(value, "M", K=key).text = word
    xml: bytes = ET.tostring(root, encoding="us-ascii")
    return xml
