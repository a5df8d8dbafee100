"""Stains images that fit in memory: arrays by `stain`, files and folders by `stain_files`.

Tiles of a larger image overlap by the generator's receptive radius, so that their edges are correct, and share
statistics of instance norm, so that their colours agree (see `policies`). An image up to one tile is stained as a
whole, with its own statistics.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from restain.errors import InputError, RestainError, ShapeError
from restain.folders import trust_map
from restain.image import RGB, image_size, load_image, make_folder, save_image, to_tensor, to_uint8
from restain.networks.norm import evaluating, freeze, instance_norms
from restain.networks.published_test import sees_whole_images
from restain.networks.stainer import Stainer
from restain.slides.tiling import Box, Tile, tiles
from restain.staining.inputs import ImageJob, find_images
from restain.staining.plan import SMALLEST_PX
from restain.staining.policies import NormPolicy, SharedNorm, SlideNorm, TileNorm, WindowStainer, tiled_network

T = TypeVar("T")

TILE_PX = 1024
"""Side of a tile. Tiles of the public data sets are stained as a whole; at width 64 one pass takes about 3 GB."""


_FILES_PX = 2**24
"""Pixels that are read and written together: 16 tiles of 1024 px."""


class ImagesOutcome(NamedTuple):
    """Results of `stain_files`."""

    written: list[Path]
    failures: dict[Path, RestainError]
    """Images that could not be read or are too small, with the reason."""


def stain(
    generator: Stainer,
    rgb: RGB,
    *,
    tile_px: int = TILE_PX,
    halo_px: int | None = None,
    norm: NormPolicy = SlideNorm(),
) -> RGB:
    """Turn H&E into virtual IHC.

    Sides that are no multiple of what the generator needs (4 px for most, 256 for the U-Net) are padded by reflection
    and cropped back. The generator runs on its device in evaluation mode, and its mode is restored.

    Args:
        generator: from `load_generator`, or a method in training.
        rgb: H x W x 3 or N x H x W x 3 uint8, at the micrometres per pixel that the generator was trained at.
        tile_px: side of a tile, such a multiple. Larger images are stained in tiles, which bounds memory.
        halo_px: margin read around each tile, such a multiple; the receptive radius of the generator if not given.
        norm: what images larger than a tile are normalised by: statistics that all tiles share, that change smoothly
            between tiles, or the tile's own, which leaves seams. Statistics that are given serve every image, whatever
            its size.

    Returns:
        The same shape, uint8.

    Raises:
        ShapeError: the array is not H x W x 3 or N x H x W x 3 uint8.
        ShapeError: the statistics given belong to another generator.
        InputError: a side is shorter than 8 px, `tile_px` or `halo_px` is no such multiple, or an image larger than a
            tile is to be stained as in the published test.
    """
    if rgb.ndim not in (3, 4) or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
        shape = " x ".join(map(str, rgb.shape))
        raise ShapeError(f"expected RGB as H x W x 3 or N x H x W x 3 uint8, got {shape} {rgb.dtype}")
    images = rgb if rgb.ndim == 4 else rgb[None]
    virtual = np.empty_like(images)
    generator, norm = _with_statistics(generator, norm)
    _stain_each(generator, norm, list(images), list(virtual), tile_px, halo_px, on_pixels=lambda _: None)
    return virtual.reshape(rgb.shape)


def stain_files(
    generator: Stainer,
    inputs: Sequence[Path],
    out: Path,
    *,
    tile_px: int = TILE_PX,
    halo_px: int | None = None,
    norm: NormPolicy = SlideNorm(),
    overwrite: bool = False,
    on_stained: Callable[[ImageJob, RGB, RGB], None] = lambda *_: None,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImagesOutcome:
    """Stain image files and folders of them; each result is a PNG of the same name in `out`, subfolders kept.

    An image that cannot be read does not stop the others. Images of equal size are stained together.

    Args:
        generator: from `load_generator`.
        inputs: image files and folders of them.
        out: a folder, created if missing.
        tile_px: as in `stain`.
        halo_px: as in `stain`.
        norm: as in `stain`.
        overwrite: whether `out` may already hold files; those of the same name are replaced, and their trust maps
            removed; others stay.
        on_stained: called with each image, its H&E and its virtual stain, such as for trust maps.
        on_progress: called with the pixels done and the pixels in all.

    Returns:
        The files written, and the images that could not be stained, with reasons.

    Raises:
        MissingError, InputError, OutputError: as in `find_images`, before any work.
        ShapeError: the statistics given belong to another generator.
        OutputError: a result cannot be written, for instance on a full disk; earlier results are complete.
    """
    generator, norm = _with_statistics(generator, norm)
    sizes: dict[ImageJob, tuple[int, int]] = {}
    outcome = ImagesOutcome([], {})
    jobs = find_images(inputs, out, overwrite=overwrite)
    make_folder(out)
    for job in jobs:
        size = _attempt(partial(_stainable_size, generator, norm, tile_px), job.source)
        if isinstance(size, RestainError):
            outcome.failures[job.source] = size
        else:
            sizes[job] = size
    _forget_trust(sizes)
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
            images, failed = _decoded(group, pool)
            outcome.failures.update({job.source: error for job, error in failed.items()})
            count(sum(sizes[job][0] * sizes[job][1] for job in failed))
            virtual = [np.empty_like(rgb) for rgb in images.values()]
            _stain_each(generator, norm, list(images.values()), virtual, tile_px, halo_px, on_pixels=count)
            for saved in saving:
                saved.result()
            saving = [pool.submit(save_image, job.target, rgb) for job, rgb in zip(images, virtual, strict=True)]
            for (job, he), rgb in zip(images.items(), virtual, strict=True):
                on_stained(job, he, rgb)
                outcome.written.append(job.target)
        for saved in saving:
            saved.result()
    return outcome


def _forget_trust(jobs: Iterable[ImageJob]) -> None:
    """Remove the trust maps of the results that these jobs replace."""
    names: dict[Path, set[str]] = {}
    for job in jobs:
        names.setdefault(trust_map(job.target).parent, set()).add(job.target.stem)
    for folder, some in names.items():
        if folder.is_dir():
            from restain.metrics.trust import forget_trust  # rarely needed, and takes time to import

            forget_trust(folder, some)


def _decoded(group: Sequence[ImageJob], pool: Executor) -> tuple[dict[ImageJob, RGB], dict[ImageJob, RestainError]]:
    """The images of a group, and the reasons why others cannot be read."""
    read = dict(zip(group, pool.map(lambda job: _attempt(load_image, job.source), group), strict=True))
    failed = {job: found for job, found in read.items() if isinstance(found, RestainError)}
    return {job: found for job, found in read.items() if not isinstance(found, RestainError)}, failed


def _attempt(read: Callable[[Path], T], path: Path) -> T | RestainError:
    try:
        return read(path)
    except RestainError as error:
        return error


def _stainable_size(generator: Stainer, norm: NormPolicy, tile_px: int, path: Path) -> tuple[int, int]:
    size = image_size(path)
    _check_size(*size, name=f"{path}: ")
    _check_pieces(generator, norm, tile_px, *size, name=f"{path}: ")
    return size


def _groups(sizes: Mapping[ImageJob, tuple[int, int]]) -> Iterator[list[ImageJob]]:
    """Groups of images of equal size that fit in memory together."""
    for (width, height), same in groupby(sorted(sizes, key=sizes.__getitem__), key=sizes.__getitem__):
        jobs, count = list(same), max(1, _FILES_PX // (width * height))
        yield from (jobs[start : start + count] for start in range(0, len(jobs), count))


def _with_statistics(generator: Stainer, norm: NormPolicy) -> tuple[Stainer, NormPolicy]:
    """With given statistics, a generator with fixed statistics, which needs no policy."""
    return (freeze(generator, norm.statistics), TileNorm()) if isinstance(norm, SharedNorm) else (generator, norm)


def _stain_each(
    generator: Stainer,
    norm: NormPolicy,
    images: Sequence[RGB],
    virtual: Sequence[RGB],
    tile_px: int,
    halo_px: int | None,
    on_pixels: Callable[[int], None],
) -> None:
    """Fill `virtual` with the stained `images`, all of one size."""
    if not images:
        return
    height, width = images[0].shape[:2]
    _check_size(width, height)
    _check_pieces(generator, norm, tile_px, width, height)
    halo_px = generator.halo_px if halo_px is None else halo_px
    multiple = generator.multiple
    width, height = (max(-(-side // multiple) * multiple, generator.smallest_px) for side in (width, height))
    cut = list(tiles((width, height), tile_px, halo_px, multiple))
    if len(cut) == 1 or not instance_norms(generator):
        norm = TileNorm()
    together = len(images) if isinstance(norm, TileNorm) else 1  # otherwise each image has its own statistics
    with evaluating(generator), _memory_in_words(generator, cut[0].window):
        for start in range(0, len(images), together):
            network = tiled_network(generator, norm, (width, height), partial(_read, images[start]), tile_px=tile_px)
            some = slice(start, start + together)
            _stain_tiles(network, images[some], virtual[some], cut, (tile_px + 2 * halo_px) ** 2, on_pixels)


def _stain_tiles(
    network: WindowStainer,
    images: Sequence[RGB],
    virtual: Sequence[RGB],
    cut: Sequence[Tile],
    most_px: int,
    on_pixels: Callable[[int], None],
) -> None:
    """Stain tile by tile, for as many images at once as have at most `most_px` together."""
    for tile in cut:
        count = max(1, most_px // (tile.window.width * tile.window.height))
        for start in range(0, len(images), count):
            windows = np.stack([_read(image, tile.window) for image in images[start : start + count]])
            with torch.inference_mode():
                stained = to_uint8(network(to_tensor(windows), tile.window))
            kept = stained[:, *tile.core.within(tile.window).slices]
            for image, found in zip(virtual[start : start + count], kept, strict=True):
                place = image[tile.core.slices]  # the core may extend into the padding of the image
                place[...] = found[: place.shape[0], : place.shape[1]]
                on_pixels(place.shape[0] * place.shape[1])


def _read(image: RGB, window: Box) -> RGB:
    """The pixels of a window, reflected outside the image."""
    inside = image[window.slices]
    missing = (window.height - inside.shape[0], window.width - inside.shape[1])
    return np.pad(inside, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect") if any(missing) else inside


@contextmanager
def _memory_in_words(generator: Stainer, window: Box) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RestainError(
            f"a tile of {window.width} x {window.height} px does not fit in the memory of "
            f"{next(generator.parameters()).device}; choose a smaller tile"
        ) from error


def _check_pieces(generator: Stainer, norm: NormPolicy, tile_px: int, width: int, height: int, name: str = "") -> None:
    if not isinstance(norm, TileNorm) and max(width, height) > tile_px and sees_whole_images(generator):
        raise InputError(
            f"{name}{width} x {height} px is larger than a tile of {tile_px} px, and the published test looks at whole "
            "images; give larger tiles, or choose the norm 'tile', which leaves seams"
        )


def _check_size(width: int, height: int, name: str = "") -> None:
    if min(width, height) < SMALLEST_PX:
        raise InputError(
            f"{name}{width} x {height} px is too small to stain; each side needs at least {SMALLEST_PX} px"
        )
