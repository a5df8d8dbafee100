"""Assembles finished tiles into an OME-Zarr, version 0.5 of the next-generation file format (NGFF) in Zarr 3.

Napari, QuPath and others open it, also over a network, chunk by chunk. Chunks are the tiles of the spool, decoded and
losslessly compressed; shards of 8 x 8 chunks keep the number of files small.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from restain.slides.codec import Codec
from restain.slides.pyramid import Position, Pyramid
from restain.slides.tiff import Description

VERSION = "0.5"
_SHARD = 8
"""Tiles along the side of a shard; with tiles of 512 px it takes 50 MB of memory."""
_CHANNELS = ("red", "green", "blue")


def is_ngff(path: Path) -> bool:
    """Whether a result has the name of an OME-Zarr."""
    return path.name.lower().endswith(".ome.zarr")


def write_ngff(
    folder: Path,
    pyramid: Pyramid,
    codec: Codec,
    levels: Sequence[Iterable[tuple[Position, bytes]]],
    background: tuple[int, int, int],
    description: Description,
) -> None:
    """Write a whole OME-Zarr.

    Args:
        folder: the result, which must not exist.
        pyramid: the shape of the pyramid.
        codec: by which all tiles were encoded.
        levels: for each level its tiles, row by row; missing ones are background.
        background: its colour.
        description: metadata of the image; a colour profile is not written, because the format has none.

    Raises:
        OSError: it cannot be written.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    attributes = {"ome": _ome(pyramid, description), "restain": dict(description.provenance)}
    root = zarr.create_group(folder, attributes=attributes, zarr_format=3)
    side = pyramid.tile_px
    for level, tiles in enumerate(levels):
        width, height = pyramid.levels[level]
        rows, columns = pyramid.grid(level)
        across = side * min(_SHARD, max(rows, columns))
        array = root.create_array(
            str(level),
            shape=(3, height, width),
            chunks=(3, side, side),
            shards=(3, across, across),
            dtype="uint8",
            compressors=ZstdCodec(level=3),
            dimension_names=("c", "y", "x"),
        )
        kept = _by_shard(tiles)
        found = next(kept, None)
        for shard_row in range(-(-rows // _SHARD)):
            band: dict[int, list[tuple[Position, bytes]]] = {}
            if found and found[0] == shard_row:
                for position, data in found[1]:
                    band.setdefault(position.column // _SHARD, []).append((position, data))
                found = next(kept, None)
            for shard_column in range(-(-columns // _SHARD)):
                left, top = shard_column * _SHARD * side, shard_row * _SHARD * side
                size = min(_SHARD * side, height - top), min(_SHARD * side, width - left)
                canvas = np.empty((*size, 3), np.uint8)
                canvas[:] = background
                for position, data in band.get(shard_column, ()):
                    y, x = position.row * side - top, position.column * side - left
                    there = canvas[y : y + side, x : x + side]
                    there[:] = codec.decode(data, (side, side))[: there.shape[0], : there.shape[1]]
                array[:, top : top + size[0], left : left + size[1]] = canvas.transpose(2, 0, 1)


def job_of_ngff(folder: Path) -> str | None:
    """The job recorded in an OME-Zarr, or None."""
    import json

    if not (folder / "zarr.json").is_file():
        return None
    try:
        attributes = json.loads((folder / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        job = attributes["restain"]["job"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return job if isinstance(job, str) else None


def _by_shard(tiles: Iterable[tuple[Position, bytes]]) -> Any:
    """Rows of shards with their encoded tiles, one row in memory at a time."""
    return ((row, list(group)) for row, group in groupby(tiles, lambda tile: tile[0].row // _SHARD))


def _ome(pyramid: Pyramid, description: Description) -> dict[str, Any]:
    left, top = description.origin_um
    datasets = []
    for level in range(len(pyramid.levels)):
        step = description.mpp * 2**level
        shift = [0.0, top + (step - description.mpp) / 2, left + (step - description.mpp) / 2]  # of a pixel's centre
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0, step, step]},
                    {"type": "translation", "translation": shift},
                ],
            }
        )
    axes = [{"name": "c", "type": "channel"}] + [
        {"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")
    ]
    channels = [
        {
            "label": name,
            "color": colour,
            "active": True,
            "window": {"min": 0, "max": 255, "start": 0, "end": 255},
        }
        for name, colour in zip(_CHANNELS, ("FF0000", "00FF00", "0000FF"), strict=True)
    ]
    return {
        "version": VERSION,
        "multiscales": [
            {
                "name": description.name,
                "axes": axes,
                "datasets": datasets,
                "type": "mean of 2 x 2 pixels",
                "metadata": {"stain": description.stain or ""},
            }
        ],
        "omero": {"channels": channels, "rdefs": {"model": "color"}},
    }
