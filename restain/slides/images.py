"""Stains images that fit in memory: arrays by `stain`, files and folders by `stain_files`.

Where an image is larger than a tile, the tiles overlap by the generator's receptive radius, so that nothing is missing
at their edges. Instance norm still takes its statistics from each tile alone, which can leave seams in colour between
tiles; an image up to one tile is stained in one piece, and a generator with batch norm has no seams at all.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from restain.errors import InputError, RestainError, ShapeError
from restain.image import image_size, load_image, save_image, to_tensor, to_uint8
from restain.networks.generator import Generator
from restain.slides.files import Job, find_jobs, make_folder
from restain.slides.tiling import MULTIPLE, Box, tiles

RGB = NDArray[np.uint8]
T = TypeVar("T")

TILE_PX = 1024
"""Side of a tile. Tiles of the public data sets go through in one piece; at width 64 one pass takes about 3 GB."""

SMALLEST_PX = 8
"""The shortest side that can be stained: two pixels are left at the coarsest scale, the least that can be reflected."""

_FILES_PX = 2**24
"""How much is read and written together: 16 tiles of 1024 px."""


class Outcome(NamedTuple):
    """What became of the images given to `stain_files`."""

    written: list[Path]
    failures: dict[Path, RestainError]
    """Images that could not be read or are too small, with the reason."""


def stain(generator: Generator, rgb: RGB, *, tile_px: int = TILE_PX, halo_px: int | None = None) -> RGB:
    """Turn H&E into virtual IHC.

    Sides that are no multiple of 4 are padded by reflection and cropped back. The generator runs where its weights are,
    in evaluation mode; it is left as it was. Tiles can leave seams under instance norm, see above.

    Args:
        generator: from `load_generator`, or a method in training.
        rgb: H x W x 3 or N x H x W x 3 uint8, at the micrometres per pixel that the generator was trained at.
        tile_px: side of a tile, a multiple of 4. Larger images are stained in tiles, which bounds memory.
        halo_px: what a tile sees around itself, a multiple of 4; the receptive radius of the generator if not given.

    Returns:
        The same shape, uint8.

    Raises:
        ShapeError: the array is not H x W x 3 or N x H x W x 3 uint8.
        InputError: a side is shorter than 8 px, or `tile_px` or `halo_px` is no multiple of 4.
    """
    if rgb.ndim not in (3, 4) or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
        shape = " x ".join(map(str, rgb.shape))
        raise ShapeError(f"expected RGB as H x W x 3 or N x H x W x 3 uint8, got {shape} {rgb.dtype}")
    images = rgb if rgb.ndim == 4 else rgb[None]
    virtual = np.empty_like(images)
    _stain_each(generator, list(images), list(virtual), tile_px, halo_px, on_pixels=lambda _: None)
    return virtual.reshape(rgb.shape)


def stain_files(
    generator: Generator,
    inputs: Sequence[Path],
    out: Path,
    *,
    tile_px: int = TILE_PX,
    halo_px: int | None = None,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Stain image files and folders of them; each result is a PNG of the same name in `out`, subfolders kept.

    An image that cannot be read does not stop the others. Images of one size go through the generator together.

    Args:
        generator: from `load_generator`.
        inputs: image files and folders of them.
        out: a folder, made where it is missing.
        tile_px: as in `stain`.
        halo_px: as in `stain`.
        overwrite: whether `out` may already hold files; those of the same name are replaced, others stay.
        on_progress: called with the pixels done and the pixels in all.

    Returns:
        What was written, and what could not be stained, with the reason of each.

    Raises:
        MissingError, InputError, OutputError: as in `find_jobs`; nothing has been done then.
        OutputError: a result cannot be written, for instance on a full disk; what was written before is whole.
    """
    sizes: dict[Job, tuple[int, int]] = {}
    outcome = Outcome([], {})
    jobs = find_jobs(inputs, out, overwrite=overwrite)
    make_folder(out)
    for job in jobs:
        size = _attempt(_stainable_size, job.source)
        if isinstance(size, RestainError):
            outcome.failures[job.source] = size
        else:
            sizes[job] = size
    total = sum(width * height for width, height in sizes.values())
    done = 0

    def count(pixels: int) -> None:
        nonlocal done
        done += pixels
        if on_progress:
            on_progress(done, total)

    saving: list[Future[None]] = []
    with ThreadPoolExecutor() as pool:  # writes one group while the next is stained
        for group in _groups(sizes):
            images: dict[Job, RGB] = {}
            for job, rgb in zip(group, pool.map(lambda job: _attempt(load_image, job.source), group), strict=True):
                if isinstance(rgb, RestainError):
                    outcome.failures[job.source] = rgb
                    count(sizes[job][0] * sizes[job][1])
                else:
                    images[job] = rgb
            virtual = [np.empty_like(rgb) for rgb in images.values()]
            _stain_each(generator, list(images.values()), virtual, tile_px, halo_px, on_pixels=count)
            for saved in saving:
                saved.result()
            saving = [pool.submit(save_image, job.target, rgb) for job, rgb in zip(images, virtual, strict=True)]
            outcome.written.extend(job.target for job in images)
        for saved in saving:
            saved.result()
    return outcome


def _attempt(read: Callable[[Path], T], path: Path) -> T | RestainError:
    try:
        return read(path)
    except RestainError as error:
        return error


def _stainable_size(path: Path) -> tuple[int, int]:
    size = image_size(path)
    _check_size(*size, name=f"{path}: ")
    return size


def _groups(sizes: Mapping[Job, tuple[int, int]]) -> Iterator[list[Job]]:
    """Images of one size, as many as may be in memory together."""
    for (width, height), same in groupby(sorted(sizes, key=sizes.__getitem__), key=sizes.__getitem__):
        jobs, count = list(same), max(1, _FILES_PX // (width * height))
        yield from (jobs[start : start + count] for start in range(0, len(jobs), count))


def _stain_each(
    generator: Generator,
    images: Sequence[RGB],
    virtual: Sequence[RGB],
    tile_px: int,
    halo_px: int | None,
    on_pixels: Callable[[int], None],
) -> None:
    """Fill `virtual` with the stained `images`, all of one size; as many windows at once as fit into one large one."""
    if not images:
        return
    height, width = images[0].shape[:2]
    _check_size(width, height)
    halo_px = generator.halo_px if halo_px is None else halo_px
    size = (-(-width // MULTIPLE) * MULTIPLE, -(-height // MULTIPLE) * MULTIPLE)
    for tile in tiles(size, tile_px, halo_px):
        count = max(1, (tile_px + 2 * halo_px) ** 2 // (tile.window.width * tile.window.height))
        for start in range(0, len(images), count):
            windows = np.stack([_read(image, tile.window) for image in images[start : start + count]])
            stained = _run(generator, windows)[:, *tile.core.within(tile.window).slices]
            for image, found in zip(virtual[start : start + count], stained, strict=True):
                place = image[tile.core.slices]  # ends where the image does, the core may reach into its padding
                place[...] = found[: place.shape[0], : place.shape[1]]
                on_pixels(place.shape[0] * place.shape[1])


def _read(image: RGB, window: Box) -> RGB:
    """The pixels of a window; where it reaches beyond the image, they are reflected."""
    inside = image[window.slices]
    missing = (window.height - inside.shape[0], window.width - inside.shape[1])
    return np.pad(inside, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect") if any(missing) else inside


def _run(generator: Generator, windows: RGB) -> RGB:
    device = next(generator.parameters()).device
    training = generator.training
    try:
        with torch.inference_mode():
            return to_uint8(generator.eval()(to_tensor(windows).to(device)))
    except torch.OutOfMemoryError as error:
        height, width = windows.shape[1:3]
        raise RestainError(
            f"a tile of {width} x {height} px does not fit into the memory of {device}; choose a smaller tile"
        ) from error
    finally:
        generator.train(training)


def _check_size(width: int, height: int, name: str = "") -> None:
    if min(width, height) < SMALLEST_PX:
        raise InputError(
            f"{name}{width} x {height} px is too small to stain; each side needs at least {SMALLEST_PX} px"
        )
