"""Finds tissue on a coarse image of a slide."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from restain.errors import InputError
from restain.image import RGB, save_image
from restain.polygons import GeoJsonRings, geojson_file
from restain.slides.reader import Slide

MASK_MPP = 8.0
"""Micrometres per pixel for the detection of tissue."""

_BLUR_UM, _GAP_UM, _MARGIN_UM = 12.0, 40.0, 40.0
_SMALLEST_UM2 = 10_000.0
"""Smaller specks are dust."""
_COLOUR = (12 / 255, 40 / 255)
"""The threshold of colourfulness lies between: below is glass, above is tissue, whatever the histogram looks like."""
_PALE_SHARE = 0.5
"""Pale tissue is worth a lower threshold if it covers this share of what is strongly coloured; blurred edges, 0.2."""
_STRIP = 512
"""Rows of the mask for which distances are in memory together."""
_DARK = 0.15
"""Darker pixels are the edge of the glass or pen, not tissue."""


@dataclass(frozen=True)
class TissueMask:
    """The mask of the tissue."""

    mask: NDArray[np.bool_]
    """H x W, true on tissue."""
    step: tuple[float, float]
    """Width and height of a pixel of the mask in pixels of the slide's first level."""

    def touches(self, x: float, y: float, width: float, height: float) -> bool:
        """Whether there is tissue in a box, given in px of the first level."""
        return bool(self._part(x, y, width, height).any())

    def share(self, x: float, y: float, width: float, height: float) -> float:
        """Share of tissue in a box, 0 to 1."""
        part = self._part(x, y, width, height)
        return float(part.mean()) if part.size else 0.0

    def _part(self, x: float, y: float, width: float, height: float) -> NDArray[np.bool_]:
        left, top = int(max(x, 0) // self.step[0]), int(max(y, 0) // self.step[1])
        right, bottom = -int(-(x + width) // self.step[0]), -int(-(y + height) // self.step[1])
        return self.mask[top:bottom, left:right]

    def polygons(self) -> list[GeoJsonRings]:
        """The outlines along the edges of the mask's pixels; x and y in px of the slide's first level."""
        labels, count = ndimage.label(self.mask)
        boxes = ndimage.find_objects(labels)
        return [
            [
                [((x + columns.start) * self.step[0], (y + rows.start) * self.step[1]) for x, y in ring]
                for ring in _rings(labels[rows, columns] == index + 1)
            ]
            for index, (rows, columns) in zip(range(count), boxes, strict=True)
        ]


def find_tissue(slide: Slide) -> TissueMask:
    """Find tissue by its colour: glass is grey, stained tissue is not (Otsu's threshold on max - min of RGB).

    Raises:
        InputError: there is none, or the slide is damaged.
    """
    mpp = max(MASK_MPP, slide.mpp)
    rgb = slide.whole(mpp)
    mask = tissue_of(rgb, mpp)
    if not mask.any():
        raise InputError(f"{slide.path}: no tissue found; stain without tissue mask, or stain a region")
    return TissueMask(mask, (slide.size[0] / mask.shape[1], slide.size[1] / mask.shape[0]))


def tissue_of(rgb: RGB, mpp: float) -> NDArray[np.bool_]:
    """Mask of the tissue on a coarse image.

    Args:
        rgb: H x W x 3 uint8.
        mpp: its micrometres per pixel.

    Returns:
        H x W; with a margin of 40 µm, small gaps closed, specks left out.
    """
    return cleaned(colourful(rgb, mpp), mpp)


def colourful(rgb: RGB, mpp: float) -> NDArray[np.bool_]:
    """Where an image is more colourful than glass, H x W; H x W x 3 uint8."""
    low, high = (limit(rgb, axis=2).astype(np.float32) / 255 for limit in (np.min, np.max))
    colour = ndimage.gaussian_filter((high - low) * (high > _DARK), _BLUR_UM / mpp)
    found: NDArray[np.bool_] = colour > _threshold(colour)
    return found


def cleaned(mask: NDArray[np.bool_], mpp: float) -> NDArray[np.bool_]:
    """A mask with a margin of 40 µm, small gaps closed, specks left out."""
    mask = ~grow(~grow(mask, _GAP_UM / mpp), _GAP_UM / mpp)  # closed
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    return grow((areas * mpp**2 >= _SMALLEST_UM2)[labels], _MARGIN_UM / mpp)


def _threshold(colour: NDArray[np.float32]) -> float:
    """Threshold of colourfulness between glass and tissue.

    Pen or strongly stained control tissue can draw the threshold above pale tissue. Where much lies between glass and
    such a threshold, what lies below is parted anew.
    """
    low, high = _COLOUR
    threshold = otsu(colour)
    while threshold > high:
        strong, rest = int((colour >= threshold).sum()), colour[colour < threshold]
        lower = max(otsu(rest), low) if rest.size else threshold
        if (rest >= lower).sum() < _PALE_SHARE * strong:
            break
        threshold, colour = lower, rest
    return float(np.clip(threshold, low, high))


def otsu(values: NDArray[np.float32]) -> float:
    """The threshold that splits values into two groups of least variance (Otsu 1979)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    mean_below = np.cumsum(counts * centres) / np.maximum(below, 1)
    mean_above = (np.cumsum((counts * centres)[::-1]) / np.maximum(above[::-1], 1))[::-1]
    between = below[:-1] * above[1:] * (mean_below[:-1] - mean_above[1:]) ** 2
    best = np.flatnonzero(between >= between.max() * (1 - 1e-9))  # a whole gap where nothing lies in between
    return float(edges[best + 1].mean())


def grow(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Dilate a mask by a radius, in strips, because distances take 40 times the memory of the mask."""
    if radius < 1:
        return mask
    grown, reach = np.zeros_like(mask), math.ceil(radius)
    for top in range(0, len(mask), _STRIP):
        first = max(0, top - reach)
        part = mask[first : top + _STRIP + reach]
        if part.any():
            near = ndimage.distance_transform_edt(~part) <= radius
            grown[top : top + _STRIP] = near[top - first :][:_STRIP]
    return grown


def _rings(mask: NDArray[np.bool_]) -> GeoJsonRings:
    """The outline of a connected mask, then its holes; corners in px of the mask."""
    padded = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for (row, column), (start, stop) in {
        (-1, 0): ((0, 0), (1, 0)),
        (0, 1): ((1, 0), (1, 1)),
        (1, 0): ((1, 1), (0, 1)),
        (0, -1): ((0, 1), (0, 0)),
    }.items():  # each side of a pixel that has no neighbour there, clockwise around the mask
        open_sides = mask & ~padded[1 + row : 1 + row + mask.shape[0], 1 + column : 1 + column + mask.shape[1]]
        for y, x in np.argwhere(open_sides).tolist():
            following[x + start[0], y + start[1]].append((x + stop[0], y + stop[1]))
    rings = sorted(_follow(following), key=_area, reverse=True)
    return [[(float(x), float(y)) for x, y in ring] for ring in rings]


def _follow(following: dict[tuple[int, int], list[tuple[int, int]]]) -> Iterator[list[tuple[int, int]]]:
    """Closed rings of sides, corners only."""
    while following:
        start = point = next(iter(following))
        before = None
        ring = [start]
        while True:
            ways = following[point]
            # where two pixels meet at a corner only, the turn to the left keeps them in one ring
            way = ways.pop(0 if len(ways) == 1 or before is None else _leftmost(before, point, ways))
            if not ways:
                del following[point]
            before, point = point, way
            if point == start:
                break
            ring.append(point)
        corners = [
            here
            for last, here, after in zip(ring[-1:] + ring[:-1], ring, ring[1:] + ring[:1], strict=True)
            if (here[0] - last[0], here[1] - last[1]) != (after[0] - here[0], after[1] - here[1])
        ]
        yield [*corners, corners[0]]


def _leftmost(before: tuple[int, int], point: tuple[int, int], ways: Sequence[tuple[int, int]]) -> int:
    dx, dy = point[0] - before[0], point[1] - before[1]
    return min(range(len(ways)), key=lambda n: dx * (ways[n][1] - point[1]) - dy * (ways[n][0] - point[0]))


def _area(ring: Sequence[tuple[float, float]]) -> float:
    """Twice the area, positive for an outline and negative for a hole."""
    return sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(ring))


def save_tissue(tissue: TissueMask, slide: Slide, picture: Path, outlines: Path) -> None:
    """Save a mask as a picture, with everything but tissue pale, and as GeoJSON for QuPath.

    Args:
        tissue: the mask.
        slide: the slide.
        picture: the PNG to write.
        outlines: the GeoJSON to write; px of the slide's first level.

    Raises:
        OutputError: a file cannot be written.
    """
    height, width = tissue.mask.shape
    rgb = np.asarray(Image.fromarray(slide.thumbnail(max(width, height))).resize((width, height)))
    pale = (rgb // 4 + 176).astype(np.uint8)
    save_image(picture, np.where(tissue.mask[..., None], rgb, pale))
    properties = {
        "objectType": "annotation",
        "classification": {"name": "Tissue", "color": [150, 75, 160]},
        "isLocked": True,
    }
    with geojson_file(outlines) as file:
        for rings in tissue.polygons():
            file.add(rings, properties)
