"""Opens a slide and reads it at any micrometres per pixel, box by box."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from restain.errors import InputError, MissingError, RestainError
from restain.image import RGB, SANE_MPP, check_mpp
from restain.slides.sources import ImageSource, Mpp, OpenSlideSource, Source
from restain.slides.tiff_source import TiffSource
from restain.slides.tiling import Box

SAME_SCALE = 0.02
"""Slides this close to the requested scale are not resampled: scanners are not calibrated any better."""

_PIECE_PX = 4096
"""Side of the largest box that is read at once for a thumbnail: 48 MiB as RGB."""


class Slide:
    """A slide that is read at any micrometres per pixel; thread-safe."""

    def __init__(self, path: Path, source: Source, mpp: float | None = None) -> None:
        """Take an opened file.

        Args:
            path: of the file, for messages.
            source: the opened file.
            mpp: micrometres per pixel, if the file has none or a wrong value.

        Raises:
            InputError: `mpp` is out of range, or missing both here and in the file.
        """
        self.path, self._source = path, source
        self.levels = source.levels
        self.size = source.levels[0]
        """Width and height in px of the first level."""
        self.icc_profile, self.format = source.icc_profile, source.format
        self.mpp, self.mpp_origin = _choose_mpp(path, source.mpp_candidates, mpp)
        """Micrometres per pixel of the first level, and their origin."""
        self.notes = source.notes
        """Notes on how the file is read."""

    def scale(self, mpp: float) -> float:
        """Width of a pixel at `mpp` in pixels of the first level; 1 if equal within 2 %."""
        ratio = mpp / self.mpp
        return 1.0 if abs(ratio - 1) <= SAME_SCALE else ratio

    def size_at(self, mpp: float) -> tuple[int, int]:
        """Width and height of the whole slide in px at `mpp`."""
        scale = self.scale(mpp)
        return _pixels(self.size[0], scale), _pixels(self.size[1], scale)

    def read(self, location: tuple[float, float], size: tuple[int, int], mpp: float) -> RGB:
        """Read a box from the nearest level that is at least as fine, resampled.

        Boxes are consistent: a pixel depends on its position, not on the box (exactly without resampling, else to the
            rounding of one grey level). The exception are levels of OpenSlide with a fractional downsampling: locations
            are whole pixels of the first level, so a box may be off by up to half of one.

        Args:
            location: left upper corner in px of the first level.
            size: width and height in px of the result.
            mpp: micrometres per pixel of the result.

        Returns:
            Height x width x 3 uint8; pixels outside the slide are reflected.

        Raises:
            InputError: the file is damaged there.
        """
        scale = self.scale(mpp)
        level = max(n for n, (width, _) in enumerate(self.levels) if n == 0 or self.size[0] / width <= scale * 1.01)
        spans = [
            _Span.of(location[axis], size[axis], scale, self.size[axis], self.levels[level][axis]) for axis in (0, 1)
        ]
        across, down = spans
        box = Box(across.start, down.start, across.stop - across.start, down.stop - down.start)
        rgb = self._read(level, box)
        if not (across.is_exact and down.is_exact):
            within = (
                across.low - across.start,
                down.low - down.start,
                across.high - across.start,
                down.high - down.start,
            )
            wanted = across.inside, down.inside
            rgb = np.asarray(Image.fromarray(rgb).resize(wanted, Image.Resampling.BICUBIC, box=within))
        if any(span.before or span.after for span in spans):
            rgb = np.pad(rgb, ((down.before, down.after), (across.before, across.after), (0, 0)), mode="reflect")
        return rgb

    def _read(self, level: int, box: Box) -> RGB:
        try:
            return self._source.read(level, box)
        except (RestainError, MemoryError):
            raise
        except Exception as error:  # each format's decoder has its own exceptions
            raise InputError(
                f"{self.path} is damaged or cut short: level {level} cannot be read at ({box.x}, {box.y}): {error}; "
                "copy it again"
            ) from error

    def thumbnail(self, max_px: int = 1024) -> RGB:
        """The whole slide with a longer side of at most `max_px`, read in pieces to save memory."""
        mpp = self.mpp * max(1.0, max(self.size) / max_px)
        return self.whole(mpp)

    def whole(self, mpp: float) -> RGB:
        """The whole slide at a coarse `mpp`, read in pieces to save memory.

        Raises:
            InputError: the file is damaged somewhere.
        """
        width, height = self.size_at(mpp)
        scale = self.scale(mpp)
        side = max(1, int(_PIECE_PX / max(scale, 1)))
        canvas = np.empty((height, width, 3), np.uint8)
        for y in range(0, height, side):
            for x in range(0, width, side):
                size = min(side, width - x), min(side, height - y)
                canvas[y : y + size[1], x : x + size[0]] = self.read((x * scale, y * scale), size, mpp)
        return canvas

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Span:
    """One axis of a read: the pixels that are fetched from the level, those requested, and those outside."""

    def __init__(self, low: float, high: float, inside: int, before: int, after: int, length: int) -> None:
        self.low, self.high = low, high
        """Of the level, what the `inside` wanted pixels cover."""
        self.inside, self.before, self.after = inside, before, after
        """Wanted pixels on the slide, and before and after it."""
        step = (high - low) / inside
        self.is_exact = abs(step - 1) < 1e-9 and abs(low - round(low)) < 1e-6
        margin = 0 if self.is_exact else 2 * max(step, 1.0) + 1  # the reach of the bicubic filter
        self.start = max(0, math.floor(low - margin + 1e-6))
        self.stop = min(length, math.ceil(high + margin - 1e-6))
        self.low, self.high = max(self.low, 0.0), min(self.high, float(length))

    @classmethod
    def of(cls, location: float, size: int, scale: float, full: int, length: int) -> Self:
        """Of `size` pixels from `location` on, on a side of `full` px that is `length` px long in the level."""
        total = _pixels(full, scale)
        first = location / scale
        before = min(max(0, math.ceil(-first - 1e-6)), size - 1)
        after = min(max(0, math.ceil(first + size - total - 1e-6)), size - 1 - before)
        ratio = length / full
        low = (location + before * scale) * ratio
        inside = size - before - after
        return cls(low, low + inside * scale * ratio, inside, before, after, length)


def _pixels(length: int, scale: float) -> int:
    """How many whole pixels of `scale` fit on a side."""
    return max(1, math.floor(length / scale + 1e-6))


def open_slide(path: Path, mpp: float | None = None) -> Slide:
    """Open a slide: a format of OpenSlide's, OME-TIFF, or a plain image.

    Args:
        path: the file.
        mpp: micrometres per pixel, if the file has none or a wrong value.

    Raises:
        MissingError: there is no such file.
        InputError: it is not a slide, is damaged, or has no micrometres per pixel and none were given.
    """
    try:
        is_there = path.exists()
    except OSError as error:  # a name from a table may be too long
        raise InputError(f"{path} cannot be opened: {error.strerror}; a slide is expected") from error
    if not is_there:
        raise MissingError(f"{path} does not exist; a slide is expected")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the slide inside")
    if not path.is_file():
        raise InputError(f"{path} is not a plain file; a slide is expected")
    source = _open_source(path)
    try:
        return Slide(path, source, mpp)
    except InputError:
        source.close()
        raise


def _open_source(path: Path) -> Source:
    """The reader that finds most levels of the file."""
    sources: list[Source] = []
    reasons: list[str] = []
    kinds: list[Callable[[Path], Source]] = [OpenSlideSource]
    if path.suffix.lower() in (".tif", ".tiff"):
        kinds.append(TiffSource)
    elif path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp", ".webp"):
        kinds = [ImageSource]
    for kind in kinds:
        try:
            sources.append(kind(path))
        except ImportError as error:
            reasons.append(f"{error.name} is missing, install restain[slides]")
        except RestainError:
            raise
        except Exception as error:  # each format's reader has its own exceptions
            reasons.append(str(error))
    if not sources:
        raise InputError(f"{path} cannot be read as a slide ({'; '.join(reasons)}); it may be cut short, copy it again")
    best = max(sources, key=lambda source: len(source.levels))
    for source in sources:
        if source is not best:
            source.close()
    return best


def _choose_mpp(path: Path, candidates: Mapping[str, Mpp], given: float | None) -> tuple[float, str]:
    if given is not None:
        check_mpp(given)
        return given, "as given"
    low, high = SANE_MPP
    for origin, (x, y) in candidates.items():
        if low <= x <= high and low <= y <= high:
            if abs(x / y - 1) > SAME_SCALE:
                raise InputError(
                    f"{path} has pixels of {x:g} x {y:g} µm ({origin}); expected square ones: resample the image, or "
                    "give the micrometres per pixel to treat them as square"
                )
            return (x + y) / 2, f"from {origin}"
    wrong = ", ".join(f"{x:g} from {origin}" for origin, (x, _) in candidates.items())
    says = f"implausible micrometres per pixel ({wrong})" if wrong else "no micrometres per pixel"
    raise InputError(f"{path} has {says}; give them (0.25 is usual at 40x, 0.5 at 20x)")
