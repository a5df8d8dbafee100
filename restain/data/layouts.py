"""Where a paired data set keeps its two sides: one `find_…` function per folder layout, listed in `LAYOUTS`."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from restain.errors import InputError, MissingError
from restain.image import IMAGE_SUFFIXES, image_size, list_images, load_image

Split = Literal["train", "val", "test"]
"""Part of a data set; `val` and `test` both mean the held-out part, whichever of the two the data set has."""

SPLITS: tuple[Split, ...] = ("train", "val", "test")
WHOLE = "whole set"
"""Name of the one part of a data set that is not split."""

_LOOK_FOR = {"train": ("train", WHOLE), "val": ("val", "test", WHOLE), "test": ("test", "val", WHOLE)}


@dataclass(frozen=True)
class Layout:
    """A data set whose folders were recognised."""

    name: str
    root: Path
    folders: Mapping[str, tuple[Path, Path]]
    """H&E and IHC folder of each part; the same folder twice where each file shows both, H&E left, IHC right."""

    def part(self, split: Split) -> str:
        """The part that serves as `split`: its own name, else the other word for held-out, else the whole set.

        Raises:
            InputError: the data set has no such part.
        """
        for part in _LOOK_FOR[split]:
            if part in self.folders:
                return part
        raise InputError(f"{self.root} ({self.name} layout) has no {split} part; found {', '.join(self.folders)}")


@dataclass(frozen=True)
class PairFiles:
    """The file or files of one pair."""

    name: str
    he: Path
    ihc: Path
    """The same file as `he` where one file shows both, H&E left, IHC right."""

    def size(self) -> tuple[int, int]:
        """Width and height of either side in px, from the headers alone.

        Raises:
            InputError: the two sides differ in size, or the file is not twice as wide as high.
        """
        width, height = image_size(self.he)
        if self.he == self.ihc:
            if width != 2 * height:
                raise InputError(
                    f"{self.he} is {width} x {height} px; without he and ihc folders each image must be twice as wide "
                    "as high, a square of H&E on the left and one of IHC on the right"
                )
            return height, height
        if image_size(self.ihc) != (width, height):
            other_width, other_height = image_size(self.ihc)
            raise InputError(
                f"{self.he} is {width} x {height} px but {self.ihc} is {other_width} x {other_height} px; "
                "both sides of a pair must have one size"
            )
        return width, height

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """H&E and IHC, each H x W x 3."""
        if self.he == self.ihc:
            both = load_image(self.he)
            middle = both.shape[1] // 2
            return both[:, :middle], both[:, middle:]
        return load_image(self.he), load_image(self.ihc)

    def load_ihc(self) -> NDArray[np.uint8]:
        """The IHC alone, H x W x 3."""
        return self.load()[1] if self.he == self.ihc else load_image(self.ihc)


def find_mist(root: Path) -> Layout | None:
    """MIST, and every set in CUT's folders: A is H&E, B is IHC. Others such as `trainB_aligned` are never looked at."""
    for base in (_child(root, "TrainValAB"), root):
        folders = _both_sides({split: (_child(base, f"{split}A"), _child(base, f"{split}B")) for split in SPLITS})
        if folders:
            return Layout("MIST", root, folders)
    return None


def find_bci(root: Path) -> Layout | None:
    """BCI: the stains outside, the parts inside."""
    he, ihc = _child(root, "HE"), _child(root, "IHC")
    folders = _both_sides({split: (_child(he, split), _child(ihc, split)) for split in SPLITS})
    return Layout("BCI", root, folders) if folders else None


def find_plain(root: Path) -> Layout | None:
    """A folder per stain, inside `train` and `val` or alone."""
    parts: dict[str, Path] = {split: _child(root, split) for split in SPLITS}
    folders = _both_sides({part: (_child(base, "he"), _child(base, "ihc")) for part, base in parts.items()})
    folders = folders or _both_sides({WHOLE: (_child(root, "he"), _child(root, "ihc"))})
    return Layout("plain", root, folders) if folders else None


def find_side_by_side(root: Path) -> Layout | None:
    """Each file shows both stains, inside `train` and `val` or alone."""
    parts = {split: _child(root, split) for split in SPLITS}
    folders: dict[str, tuple[Path, Path]] = {
        part: (base, base) for part, base in parts.items() if base.is_dir() and list_images(base)
    }
    if not folders and list_images(root):
        folders = {WHOLE: (root, root)}
    return Layout("side-by-side", root, folders) if folders else None


LAYOUTS: dict[str, Callable[[Path], Layout | None]] = {
    "MIST (trainA, trainB, valA, valB; or TrainValAB with these inside)": find_mist,
    "BCI (HE/train, HE/test, IHC/train, IHC/test)": find_bci,
    "plain (he, ihc; or train and val with these inside)": find_plain,
    "side-by-side (images with H&E left and IHC right; or train and val with these inside)": find_side_by_side,
}
"""How each known layout looks, and the function that finds it; the first that fits is taken. `val` may be `test`."""


def find_layout(root: Path) -> Layout:
    """Recognise how a data set is laid out.

    Raises:
        MissingError: the folder does not exist.
        InputError: no known layout fits, or a part has only one of its two sides.
    """
    if not root.exists():
        raise MissingError(f"{root} does not exist; a folder with pairs of H&E and IHC images is expected")
    if not root.is_dir():
        raise InputError(f"{root} is a file; a folder with pairs of H&E and IHC images is expected")
    for find in LAYOUTS.values():
        layout = find(root)
        if layout is not None:
            return layout
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    found = f"folders {_some(folders)}" if folders else "no folders and no images"
    raise InputError(f"{root} has none of the known layouts; found {found}; known: {'; '.join(LAYOUTS)}")


def pair_files(he_folder: Path, ihc_folder: Path) -> list[PairFiles]:
    """Pair the images of two folders by name without ending, in order of name.

    Raises:
        InputError: a folder holds no images, two files of one folder share a name, or a partner is missing.
    """
    he, ihc = _by_stem(he_folder), _by_stem(ihc_folder)
    alone = [str(side[stem]) for side, other in ((he, ihc), (ihc, he)) for stem in side if stem not in other]
    if alone:
        raise InputError(
            f"no partner of the same name for {_some(alone)}; {he_folder} and {ihc_folder} must hold the same names"
        )
    return [PairFiles(stem, he[stem], ihc[stem]) for stem in he]


def _some(words: Iterable[str], most: int = 5) -> str:
    """The first few words as a list, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _child(folder: Path, name: str) -> Path:
    """The entry of a folder with this name in any letter case, or where it would be."""
    exact = folder / name
    if exact.exists() or not folder.is_dir():
        return exact
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower()), exact)


def _both_sides(candidates: Mapping[str, tuple[Path, Path]]) -> dict[str, tuple[Path, Path]]:
    """The parts that exist; a part with one side alone is refused."""
    for sides in candidates.values():
        there = [side for side in sides if side.is_dir()]
        if len(there) == 1:
            missing = sides[1] if sides[0] in there else sides[0]
            raise InputError(
                f"{there[0]} is there but {missing} is not; a data set needs both its H&E and its IHC folder"
            )
    return {part: sides for part, sides in candidates.items() if sides[0].is_dir()}


def _by_stem(folder: Path) -> dict[str, Path]:
    images = list_images(folder)
    if not images:
        raise InputError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    files: dict[str, Path] = {}
    for path in images:
        if path.stem in files:
            raise InputError(f"{files[path.stem]} and {path} share a name; which one belongs to the pair? Remove one")
        files[path.stem] = path
    return files
