"""Folder layouts of paired data sets: one `find_…` function per layout, listed in `LAYOUTS`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from restain.data.pairs_csv import COLUMNS, read_pairs
from restain.data.partners import PairFiles, pair_files
from restain.errors import InputError, MissingError
from restain.folders import list_images, some, subfolders_with_images

Split = Literal["train", "val", "test"]
"""Part of a data set; `val` and `test` both mean the held-out part, whichever it has."""

SPLITS: tuple[Split, ...] = ("train", "val", "test")
WHOLE = "whole set"
"""Name of the one part of a data set that is not split."""

LIST_NAME = "pairs.csv"
"""Name of the file that lists the pairs of its folder."""

_LOOK_FOR = {"train": ("train", WHOLE), "val": ("val", "test", WHOLE), "test": ("test", "val", WHOLE)}


@dataclass(frozen=True)
class Layout:
    """A data set whose folders were recognised, or whose pairs a CSV file lists."""

    name: str
    root: Path
    folders: Mapping[str, tuple[Path, Path]] = field(default_factory=dict)
    """H&E and IHC folder of each part; the same folder twice if each file shows both, H&E left, IHC right."""
    listed: Mapping[str, tuple[PairFiles, ...]] = field(default_factory=dict)
    """The pairs of each part if a CSV file lists them, in order of name."""
    ignored: tuple[str, ...] = ()
    """Further columns of the CSV file."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts."""
        return (*self.folders, *self.listed)

    def pairs(self, part: str) -> list[PairFiles]:
        """The pairs of a part, in order of name.

        Raises:
            InputError: as in `pair_files`.
        """
        return list(self.listed[part]) if part in self.listed else pair_files(*self.folders[part])

    def place(self, part: str) -> str:
        """Describe where the pairs of a part are."""
        if part in self.listed:
            ignored = f"; columns that are not read: {some(self.ignored)}" if self.ignored else ""
            return f"its rows of {part}{ignored}" if part != WHOLE else f"its rows{ignored}"
        he, ihc = (folder.relative_to(self.root) for folder in self.folders[part])
        below = sorted({name for folder in self.folders[part] for name in subfolders_with_images(folder)})
        passed_over = f"; images in their subfolders {some(below)} are ignored" if below else ""
        return (
            f"{he} and {ihc}{passed_over}" if he != ihc else f"{he}, H&E left and IHC right in each image{passed_over}"
        )

    def part(self, split: Split) -> str:
        """The part that serves as `split`: its own name, else the other word for held-out, else the whole set.

        Raises:
            InputError: the data set has no such part.
        """
        for part in _LOOK_FOR[split]:
            if part in self.parts:
                return part
        raise InputError(f"{self.root} ({self.name} layout) has no {split} part; found {', '.join(self.parts)}")


def find_csv(root: Path) -> Layout | None:
    """A CSV file that lists the pairs: `root` itself, or `pairs.csv` in it. It precedes folders beside it."""
    path = root if root.is_file() else _child(root, LIST_NAME)
    if not path.exists():
        return None
    found = read_pairs(path)
    return Layout("CSV", path, {}, {part or WHOLE: pairs for part, pairs in found.parts.items()}, found.ignored)


def find_mist(root: Path) -> Layout | None:
    """MIST, and every set in CUT's folders: A is H&E, B is IHC. Others such as `trainB_aligned` are ignored."""
    for base in (_child(root, "TrainValAB"), root):
        folders = _both_sides({split: (_child(base, f"{split}A"), _child(base, f"{split}B")) for split in SPLITS})
        if folders:
            return Layout("MIST", root, folders)
    return None


def find_bci(root: Path) -> Layout | None:
    """BCI: a folder per stain with the parts inside."""
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
    f"CSV ({LIST_NAME} with the columns {','.join(COLUMNS)})": find_csv,
    "MIST (trainA, trainB, valA, valB; or TrainValAB with these inside)": find_mist,
    "BCI (HE/train, HE/test, IHC/train, IHC/test)": find_bci,
    "plain (he, ihc; or train and val with these inside)": find_plain,
    "side-by-side (images with H&E left and IHC right; or train and val with these inside)": find_side_by_side,
}
"""The known layouts and the functions that find them; the first match is taken. `val` may be `test`."""


def find_layout(root: Path) -> Layout:
    """Recognise the layout of a data set.

    Raises:
        MissingError: the folder does not exist.
        InputError: no known layout fits, or a part has only one of its two sides.
    """
    if not root.exists():
        raise MissingError(f"{root} does not exist; a folder with pairs of H&E and IHC images is expected")
    if root.is_file() and root.suffix.lower() != ".csv":
        raise InputError(
            f"{root} is a file; expected a folder with pairs of H&E and IHC images, or a CSV file of pairs"
        )
    if not root.is_file() and not root.is_dir():
        raise InputError(f"{root} is neither a folder with pairs of H&E and IHC images nor a CSV file of pairs")
    for find in LAYOUTS.values():
        layout = find(root)
        if layout is not None:
            return layout
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    found = f"folders {some(folders)}" if folders else "no folders and no images"
    raise InputError(f"{root} has no known layout; found {found}; known layouts: {'; '.join(LAYOUTS)}")


def _child(folder: Path, name: str) -> Path:
    """The entry of a folder with this name in any letter case, or its path if there is none."""
    exact = folder / name
    if exact.exists() or not folder.is_dir():
        return exact
    return next((path for path in sorted(folder.iterdir()) if path.name.lower() == name.lower()), exact)


def _both_sides(candidates: Mapping[str, tuple[Path, Path]]) -> dict[str, tuple[Path, Path]]:
    """The parts that exist; a part with only one side is refused."""
    for sides in candidates.values():
        there = [side for side in sides if side.is_dir()]
        if len(there) == 1:
            missing = sides[1] if sides[0] in there else sides[0]
            raise InputError(
                f"{there[0]} exists but {missing} does not; a data set needs both its H&E and its IHC folder"
            )
    return {part: sides for part, sides in candidates.items() if sides[0].is_dir()}
