"""Folders of images: how they are walked, how files are paired by name, and which files accompany a result."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from restain.errors import InputError, MissingError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
"""Suffixes, in lower case, of image files."""

TRUST_FOLDER = "trust"
"""Folder beside virtual images for their trust maps, PNGs of the same names."""

BESIDE_SLIDES = ("tissue.png", "tissue.geojson", "statistics.safetensors", "trust.csv", "trust.png")
"""Endings of the files that accompany a stained slide; see `beside`."""

MOST_TEXT_BYTES = 2**30
"""Of a text file that is read whole, such as a table or the GeoJSON of a slide's cells."""

_MAPS = tuple(f".{ending}" for ending in BESIDE_SLIDES if ending.endswith(".png"))
_UNFINISHED = ".spool"


def is_image(path: Path) -> bool:
    """Whether a file is an image, by its suffix."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def list_images(folder: Path) -> list[Path]:
    """The image files that lie directly in a folder, sorted by name; hidden files are left out.

    Raises:
        MissingError: the folder does not exist.
        InputError: it is a file, or cannot be read.
    """
    try:
        entries = sorted(folder.iterdir())
    except FileNotFoundError as error:
        raise MissingError(f"{folder} does not exist; a folder of images is expected") from error
    except OSError as error:
        raise InputError(f"{folder} cannot be read as a folder: {error.strerror}") from error
    images = [path for path in entries if is_image(path) and not path.name.startswith(".")]
    for path in images:
        check_name(path)
    return images


def files_below(folder: Path, out: Path | None = None) -> Iterator[Path]:
    """The files in a folder and its subfolders, sorted by path.

    Hidden files, unfinished slides, files that `restain stain` writes beside its results, and everything in `out` are
    left out.

    Args:
        folder: where to look.
        out: folder of results, which may lie in it.
    """
    results = out.resolve() if out else None
    for path in sorted(_walk(folder, frozenset())):
        if not is_map(path.relative_to(folder)) and results not in path.resolve().parents:
            yield path


def _walk(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Files below a folder in no particular order; links are followed, except to a folder that contains them."""
    real = folder.resolve()
    if real in above:
        return
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be read as a folder: {error.strerror}") from error
    for path in entries:
        if path.name.startswith(".") or path.name.endswith(_UNFINISHED):
            continue
        check_name(path)
        if path.is_dir():
            yield from _walk(path, above | {real})
        elif path.is_file():
            yield path


def check_name(path: Path) -> None:
    """Refuse a file name that cannot be written to a table.

    Raises:
        InputError: its bytes are not UTF-8, as from old archives and shares.
    """
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise InputError(
            f"{shown}: the bytes of this name are not UTF-8; rename it, for instance with convmv"
        ) from error


def subfolders_with_images(folder: Path) -> list[str]:
    """The subfolders with images, for commands that read only the folder itself."""
    found = (path.relative_to(folder).parts for path in files_below(folder) if is_image(path))
    return sorted({parts[0] for parts in found if len(parts) > 1})


def sampled_hash(path: Path) -> str:
    """Size of a file in bytes and a hash of blocks spread over it, which takes no time for thousands of files.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    for block in spread_blocks(path, 16, 4096):
        digest.update(block)
    return f"{path.stat().st_size}:{digest.hexdigest()[:16]}"


def spread_blocks(path: Path, count: int, length: int) -> Iterator[bytes]:
    """So many blocks of so many bytes, spread evenly over a file from its beginning to its end.

    Raises:
        OSError: it cannot be read.
    """
    last = max(0, path.stat().st_size - length)
    with path.open("rb") as file:
        for block in range(count):
            file.seek(block * last // (count - 1))
            yield file.read(length)


def separator(text: str) -> str:
    """What separates the columns of a CSV: comma, semicolon or tab, whichever its first line with words has most of."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t", key=first.count)


def read_text(path: Path, expected: str) -> str:
    """Read a text file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        expected: what it should be, for messages, such as `a CSV of slides`.

    Raises:
        MissingError: there is no such file.
        InputError: it is no plain file, which might never end; or too large, or no text.
    """
    try:
        if not path.exists():
            raise MissingError(f"{path} does not exist; {expected} is expected")
        if not path.is_file():
            raise InputError(f"{path} is not a plain file; {expected} is expected")
        if path.stat().st_size > MOST_TEXT_BYTES:
            raise InputError(f"{path} has more than {MOST_TEXT_BYTES >> 20:,} MiB; {expected} is expected")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        if isinstance(error, MissingError):
            raise
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8 ({error.reason}); {expected} is expected") from error
    if "\0" in text:
        raise InputError(f"{path} holds a zero byte, which no text has; {expected} is expected")
    return text


def is_file_named(path: Path) -> bool:
    """Whether there is a file of a name that may be anything, as in a table: too long, or of odd characters."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_map(name: Path) -> bool:
    """Whether a file, relative to the folder being searched, is a map of trust or tissue rather than an image.

    Maps of images are in a separate folder, those of a slide beside its result.
    """
    return TRUST_FOLDER in name.parts[:-1] or name.name.lower().endswith(_MAPS)


def beside(slide: Path, ending: str) -> Path:
    """A file that accompanies a stained slide: `NAME.ending` for `NAME.ome.tif`."""
    return slide.with_name(f"{slide.name[: slide.name.lower().rindex('.ome.')]}.{ending}")


def trust_map(virtual: Path) -> Path:
    """Path of the trust map of a virtual image, which may not exist."""
    return virtual.parent / TRUST_FOLDER / f"{virtual.stem}.png"


def images_by_name(folder: Path) -> dict[str, Path]:
    """The images of a folder by their name without ending, in order.

    Raises:
        MissingError, InputError: as in `list_images`; or there is none, or two share a name.
    """
    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise InputError(f"{found[path.stem]} and {path} share a name; images are paired by name, so remove one")
        found[path.stem] = path
    if not found:
        raise InputError(f"{folder} holds no images; expected files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def partners(images: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """The image of the same name in a folder for each of some images; the folder may hold more.

    Args:
        images: by name, as from `images_by_name`.
        folder: of the partners.

    Raises:
        MissingError, InputError: as in `images_by_name`; or an image has no partner.
    """
    others = images_by_name(folder)
    if alone := [str(path) for name, path in images.items() if name not in others]:
        raise InputError(f"no partner of the same name in {folder} for {some(alone)}")
    return {name: others[name] for name in images}


def pair_by_name(one: Path, other: Path) -> dict[str, tuple[Path, Path]]:
    """The images of two folders that hold the same names, by name, in order.

    Raises:
        MissingError, InputError: as in `images_by_name`; or an image of either has no partner.
    """
    ours, theirs = images_by_name(one), images_by_name(other)
    alone = [str(side[name]) for side, opposite in ((ours, theirs), (theirs, ours)) for name in side.keys() - opposite]
    if alone:
        raise InputError(
            f"no partner of the same name for {some(sorted(alone))}; {one} and {other} must hold the same names"
        )
    return {name: (path, theirs[name]) for name, path in ours.items()}


def some(words: Iterable[str], most: int = 5) -> str:
    """The first few words as a list, and the number of the others."""
    words = list(words)
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
