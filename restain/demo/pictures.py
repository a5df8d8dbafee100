"""What the page shows: tiles side by side, of drawn tissue and of the user's own slide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from restain.checkpoint import load_generator
from restain.demo.tissue import MPP
from restain.errors import InputError
from restain.image import RGB, load_image
from restain.slides.kinds import is_plain_image
from restain.slides.reader import Slide, open_slide
from restain.slides.tissue import find_tissue
from restain.staining.images import stain

OWN_PX = 768
"""Side of what is shown of the user's slide."""
OVERVIEW_PX = 640
"""Longer side of a whole slide on the page."""
DETAIL_PX = 448


@dataclass(frozen=True)
class Example:
    """One place in every version."""

    caption: str
    images: Mapping[str, RGB]
    """Column -> H x W x 3; the same columns in every row of a sheet."""


def tile_rows(folders: Mapping[str, Path], captions: Mapping[str, str]) -> list[Example]:
    """Images of the same names in several folders.

    Args:
        folders: column -> folder.
        captions: stem of the file -> what it shows, in the order of the rows.
    """
    return [
        Example(words, {column: load_image(folder / f"{name}.png") for column, folder in folders.items()})
        for name, words in captions.items()
    ]


def own_row(path: Path, mpp: float | None, models: Mapping[str, str]) -> Example:
    """The part of a user's slide or tile that has most tissue, stained by several models.

    Args:
        path: a slide or an image. An image without micrometres per pixel is taken to have 0.5.
        mpp: micrometres per pixel, where the file has none or wrong ones.
        models: column -> name of a model that was trained at 0.5 µm per pixel.

    Raises:
        MissingError, InputError: the file cannot be used, or shows no tissue.
    """
    try:
        slide = open_slide(path, mpp)
    except InputError:
        if mpp is not None or not is_plain_image(path):
            raise
        slide = open_slide(path, MPP)
    with slide:
        size = min(OWN_PX, slide.size_at(MPP)[0]), min(OWN_PX, slide.size_at(MPP)[1])
        he = slide.read(_fullest(slide, size), size, MPP)
        caption = (
            f"{path.name}, {size[0]} × {size[1]} px at {MPP} µm per px ({slide.mpp:g} µm per px {slide.mpp_origin})"
        )
    return Example(caption, {"H&E": he} | {column: stain(load_generator(name), he) for column, name in models.items()})


def whole_row(slides: Mapping[str, Path]) -> Example:
    """Whole slides of one size, small."""
    images = {}
    for column, path in slides.items():
        with open_slide(path) as slide:
            images[column] = slide.thumbnail(OVERVIEW_PX)
    return Example("the whole slide", images)


def detail_row(slides: Mapping[str, Path], brown: Path) -> Example:
    """The part of these slides where one of them has most stain."""
    with open_slide(brown) as slide:
        rgb = slide.whole(8.0).astype(np.float32)
        darkness = np.maximum(rgb[..., 0] - rgb[..., 2], 0)  # brown is poor in blue
        x, y = _best(darkness, (DETAIL_PX * slide.mpp / 8.0, DETAIL_PX * slide.mpp / 8.0))
        place = x * 8.0 / slide.mpp, y * 8.0 / slide.mpp
    images = {}
    for column, path in slides.items():
        with open_slide(path) as slide:
            images[column] = slide.read(place, (DETAIL_PX, DETAIL_PX), slide.mpp)
    return Example(f"{DETAIL_PX} px at x {place[0]:.0f}, y {place[1]:.0f}, where the truth has most stain", images)


def _fullest(slide: Slide, size: Sequence[int]) -> tuple[float, float]:
    """Where a window with most tissue begins, in px of the first level; the corner of what is no larger than it."""
    if tuple(size) == slide.size_at(MPP):
        return 0.0, 0.0
    tissue = find_tissue(slide)
    scale = slide.scale(MPP)
    depth = ndimage.distance_transform_edt(tissue.mask)  # its margins reach onto the glass
    x, y = _best(depth, (size[0] * scale / tissue.step[0], size[1] * scale / tissue.step[1]))
    place = x * tissue.step[0], y * tissue.step[1]
    return min(place[0], slide.size[0] - size[0] * scale), min(place[1], slide.size[1] - size[1] * scale)


def _best(amount: np.ndarray, size: tuple[float, float]) -> tuple[int, int]:
    """The corner (x, y) of the window with most of something; H x W."""
    width, height = (min(max(1, round(side)), most) for side, most in zip(size, amount.shape[::-1], strict=True))
    sums = np.pad(amount.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    windows = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    y, x = np.unravel_index(int(windows.argmax()), windows.shape)
    return int(x), int(y)
