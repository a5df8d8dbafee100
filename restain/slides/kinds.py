"""Which files are slides, by suffix, and for TIFF by header."""

import struct
from pathlib import Path

from restain.folders import is_image

SLIDE_SUFFIXES = frozenset(
    {".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".dcm", ".svslide", ".ome.tif", ".ome.tiff"}
)
"""Suffixes, in lower case, of slides; other TIFFs may be slides or images."""

_BIG_TIFF, _TILE_WIDTH = 43, 322


def is_slide(path: Path) -> bool:
    """Whether a file is a slide by suffix, or a tiled TIFF; ordinary images are stored in strips."""
    name = path.name.lower()
    return any(name.endswith(suffix) for suffix in SLIDE_SUFFIXES) or (
        name.endswith((".tif", ".tiff")) and _is_in_tiles(path)
    )


def is_plain_image(path: Path) -> bool:
    """Whether a file is an image by suffix and not a slide."""
    return is_image(path) and not is_slide(path)


def is_ome_tiff(path: Path) -> bool:
    """Whether a file has the name of an OME-TIFF."""
    return path.name.lower().endswith((".ome.tif", ".ome.tiff"))


def names_result(path: Path) -> bool:
    """Whether a path names one stained slide, as OME-TIFF or OME-Zarr."""
    return is_ome_tiff(path) or path.name.lower().endswith(".ome.zarr")


def _is_in_tiles(path: Path) -> bool:
    """Whether the first directory of a TIFF or BigTIFF gives a width of tiles."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            order = {b"II": "<", b"MM": ">"}[head[:2]]
            (version,) = struct.unpack(f"{order}H", head[2:4])
            place, count, entry_bytes = ("Q", "Q", 20) if version == _BIG_TIFF else ("I", "H", 12)
            file.seek(*struct.unpack_from(f"{order}{place}", head, 8 if version == _BIG_TIFF else 4))
            (entries,) = struct.unpack(f"{order}{count}", file.read(struct.calcsize(count)))
            tags = (struct.unpack(f"{order}H", file.read(entry_bytes)[:2])[0] for _ in range(entries))
            return _TILE_WIDTH in tags
    except (OSError, KeyError, struct.error):
        return False
