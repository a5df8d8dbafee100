"""What a page shows: the H&E, its virtual stains, the real IHC; and what is read from them: tiles, figures, pixels."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from PIL import Image

from restain.errors import InputError
from restain.image import RGB
from restain.polygons import Ring, Roi
from restain.quantify.density import densities
from restain.quantify.tally import Tally
from restain.quantify.tiles import QuantifySettings, fit_mpp, quantify_tiles
from restain.registration.transform import Transform
from restain.slides.pyramid import Position, Pyramid
from restain.slides.reader import Slide
from restain.slides.tiling import Box
from restain.stains import Marker
from restain.viewer.live import LiveStain
from restain.viewer.pictures import Picture, encode

"""Corners of a polygon, N x 2 (x, y)."""

MOST_PX = 64_000_000
"""Largest box around a region that is measured or exported, in px of its image."""

_TILE_PX = 1024  # as `restain quantify` cuts an image, so that figures are the same
_CORNERS = 64  # along a side of a polygon that goes through a transform, which bends it


@dataclass(frozen=True)
class Shown:
    """One image of the scene: a picture that is there, or a stain that is made while one looks."""

    name: str
    """Its name in addresses."""
    label: str
    kind: Literal["he", "virtual", "ihc"]
    pixels: Picture | LiveStain
    scale: float = 1.0
    """How many px of the H&E's first level one px of the image is wide."""
    slide: Slide | None = None
    """What figures are read from; None for a live stain, which is read as far as it is stained."""
    transform: Transform | None = None
    """From the H&E to `slide`, where that is another section."""

    @property
    def is_live(self) -> bool:
        """Whether its tiles are made on demand."""
        return isinstance(self.pixels, LiveStain)

    def described(self) -> dict[str, Any]:
        """As the page needs it."""
        pyramid: Pyramid = self.pixels.pyramid
        return {
            "id": self.name,
            "label": self.label,
            "kind": self.kind,
            "live": self.is_live,
            "size": pyramid.size,
            "tile_px": pyramid.tile_px,
            "levels": pyramid.levels,
            "width_px": pyramid.size[0] * self.scale,
        }

    def tile(self, position: Position) -> tuple[bytes, str, bool]:
        """A tile for the browser: bytes, media type, and whether it will stay as it is."""
        if not isinstance(self.pixels, LiveStain):
            return *encode(self.pixels.tile(position)), True
        data, tile = self.pixels.tile(position)
        if tile is None:
            return data, "image/jpeg", True
        rgb, alpha = tile
        return *encode(rgb, alpha), bool(alpha.all())

    def ring(self, polygon: Ring) -> Ring:
        """A polygon, given in px of the H&E's first level, in px of the first level of what figures are read from."""
        if self.transform is None:
            return self.places(polygon)
        around = np.concatenate([polygon, polygon[:1]])
        steps = np.linspace(0, 1, _CORNERS, endpoint=False)[:, None]
        dense = np.concatenate([start + steps * (end - start) for start, end in pairwise(around)])
        return self.places(dense)

    def places(self, points: Ring) -> Ring:
        """Points, given in px of the H&E's first level, in px of the first level of what figures are read from."""
        if self.transform is None:
            return points / self.scale
        moved: Ring = self.transform(points * self.transform.he.mpp) / self.transform.ihc.mpp
        return moved


def measure(shown: Shown, polygon: Ring, marker: Marker) -> tuple[dict[str, float | int | None], list[str]]:
    """Measure what lies in a polygon, as `restain quantify` measures a region.

    Args:
        shown: the image.
        polygon: in px of the H&E's first level.
        marker: where DAB lies on positive cells.

    Returns:
        Figures by name as in `Tally.row`, and what a reader should know.

    Raises:
        InputError: the polygon is too large, or lies beside the image.
        RestainError: the tiles that are missing could not be stained.
    """
    ring = shown.ring(polygon)
    box = _around(shown, ring)
    slide = _readable(shown, box)
    mpp = fit_mpp(slide.mpp)
    scale, size = slide.scale(mpp), slide.size_at(mpp)
    region = Roi("region", [[ring]])
    settings = QuantifySettings(mpp, marker)

    def read(location: tuple[int, int], extent: tuple[int, int]) -> RGB:
        return slide.read((location[0] * scale, location[1] * scale), extent, mpp)

    total = Tally()
    for tile in quantify_tiles(
        read, size, settings, _TILE_PX, wanted=lambda place, extent: region.may_touch(place, extent, scale)
    ):
        height, width = tile.rgb.shape[:2]
        total += tile.tally(region.mask(tile.location, (width, height), scale))
    if not total.area_um2:
        raise InputError(f"the region does not overlap {shown.label}; draw it on the tissue")
    notes = (
        []
        if shown.transform is None
        else ["The real IHC is a neighbouring section: other cells, placed by registration."]
    )
    return total.row(marker), notes


def cut_out(shown: Shown, polygon: Ring) -> bytes:
    """The box around a polygon as PNG, in the pixels that `measure` reads.

    Raises:
        As `measure`.
    """
    box = _around(shown, shown.ring(polygon))
    slide = _readable(shown, box)
    encoded = io.BytesIO()
    Image.fromarray(slide.read((box.x, box.y), (box.width, box.height), slide.mpp)).save(encoded, "PNG")
    return encoded.getvalue()


def density_at(shown: Shown, x: float, y: float) -> float | None:
    """DAB density of the pixel at a place of the H&E's first level; None where there is none, or none yet."""
    column, row = (math.floor(value) for value in shown.places(np.array([[x, y]], np.float64))[0])
    if isinstance(shown.pixels, LiveStain):
        rgb = shown.pixels.pixel(column, row)
    elif shown.slide and 0 <= column < shown.slide.size[0] and 0 <= row < shown.slide.size[1]:
        rgb = shown.slide.read((column, row), (1, 1), shown.slide.mpp)
    else:
        rgb = None
    return None if rgb is None else float(densities(rgb)[1].item())


def _around(shown: Shown, ring: Ring) -> Box:
    """The box around a polygon, cut at the image."""
    size = shown.slide.size if shown.slide else shown.pixels.pyramid.size
    left, top = (max(0, math.floor(value)) for value in ring.min(axis=0))
    right, bottom = (min(side, math.ceil(value)) for side, value in zip(size, ring.max(axis=0), strict=True))
    if right <= left or bottom <= top:
        raise InputError(f"the region does not overlap {shown.label}; draw it on the tissue")
    if (right - left) * (bottom - top) > MOST_PX:
        raise InputError(
            f"the region spans {right - left} x {bottom - top} px; draw one of at most {MOST_PX // 10**6} megapixels, "
            "or measure the finished file with restain quantify"
        )
    return Box(left, top, right - left, bottom - top)


def _readable(shown: Shown, box: Box) -> Slide:
    """What a box can be read from, after all that figures depend on there is stained."""
    if not isinstance(shown.pixels, LiveStain):
        if shown.slide is None:
            raise InputError(f"{shown.label} holds no DAB to measure")
        return shown.slide
    mpp = fit_mpp(shown.pixels.mpp)
    scale = mpp / shown.pixels.mpp
    tile = math.ceil(_TILE_PX * scale)
    halo = math.ceil(QuantifySettings(mpp).halo_px * scale) + tile  # tiles that touch the box, and what they see
    shown.pixels.need([Box(box.x - halo, box.y - halo, box.width + 2 * halo, box.height + 2 * halo)])
    return shown.pixels.slide()


def rings_of(values: Any) -> Ring:
    """A polygon that a page has sent.

    Raises:
        InputError: it is none.
    """
    try:
        ring = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("a polygon is a list of [x, y]") from error
    if ring.ndim != 2 or ring.shape[1:] != (2,) or not 3 <= len(ring) <= 4096 or not np.isfinite(ring).all():
        raise InputError("a polygon has 3 to 4,096 corners, each [x, y] in px of the H&E")
    return ring


def described(
    title: str, he: Slide, images: Sequence[Shown], overlays: Sequence[str], cells: Sequence[str]
) -> dict[str, Any]:
    """The scene as the page needs it."""
    return {
        "title": title,
        "mpp": he.mpp,
        "size": he.size,
        "images": [image.described() for image in images],
        "overlays": list(overlays),
        "cells": list(cells),
    }
