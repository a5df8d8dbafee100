"""Paired tiles for training: the H&E of a section, the IHC of its neighbour, and the grade of the pair."""

from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from restain.data.augment import Augment, Change, centre_window, crop_and_mirror, draw_change, jitter_colour
from restain.data.grades import (
    GRADES,
    UNKNOWN,
    grade_limits,
    grades_from_fractions,
    grades_from_list,
    grades_from_names,
    measure_positive_fractions,
)
from restain.data.layouts import WHOLE, Split, find_layout
from restain.data.nuclei import NuclearMaps
from restain.data.partners import PairFiles
from restain.errors import InputError, ShapeError
from restain.image import to_tensor
from restain.randomness import generator


@dataclass(frozen=True)
class Pair:
    """A batch of N pairs of neighbouring sections."""

    he: Tensor
    """H&E, N x 3 x H x W in [-1, 1]."""
    ihc: Tensor
    """Real IHC of the neighbouring section, N x 3 x H x W in [-1, 1]."""
    grade: Tensor
    """N int64: 0, 1+, 2+, 3+ as 0 to 3; -1 if grades are not used."""
    index: Tensor
    """N int64, index in the data set; stays on the CPU, where random numbers are drawn."""
    names: tuple[str, ...]
    """File names without suffix."""
    density: Tensor | None = None
    """Density of nuclei in the real IHC, N x 1 x H x W in [0, 1]; only for methods that need it."""

    def to(self, device: torch.device | str, memory_format: torch.memory_format = torch.preserve_format) -> Self:
        """The same pairs on a device; copies from pinned memory are asynchronous."""
        away = torch.device(device).type != "cpu"  # a copy to the CPU must be synchronous
        return type(self)(
            self.he.to(device, non_blocking=away, memory_format=memory_format),
            self.ihc.to(device, non_blocking=away, memory_format=memory_format),
            self.grade.to(device, non_blocking=away),
            self.index,
            self.names,
            None if self.density is None else self.density.to(device, non_blocking=away),
        )

    def pin_memory(self) -> Self:
        """The same pairs in pinned memory; `DataLoader` calls this."""
        density = None if self.density is None else self.density.pin_memory()
        he, ihc, grade = self.he.pin_memory(), self.ihc.pin_memory(), self.grade.pin_memory()
        return type(self)(he, ihc, grade, self.index, self.names, density)


class PairedTiles(Dataset[Pair]):
    """The pairs of one part of a data set, matched by name and checked before any is read.

    An item depends only on (seed, epoch, index), not on loaders or on earlier items.
    """

    def __init__(
        self,
        root: Path,
        split: Split = "train",
        crop_px: int | None = None,
        seed: int = 0,
        augment: Augment | None = None,
        grades: Literal["auto", "none"] = "auto",
        *,
        unpaired: bool = False,
        resize_px: int | None = None,
        nuclei: NuclearMaps | None = None,
    ) -> None:
        """Find the pairs; only headers are read, unless grades must be measured.

        Args:
            root: the data set's folder, in any of `restain.data.layouts.LAYOUTS`, or a CSV file that lists the pairs.
            split: which part; `val` and `test` both mean the held-out one. Without parts, every split is the whole set.
            crop_px: side of the square crop of both stains; None gives whole tiles.
            seed: of all random changes.
            augment: random changes of pairs, with random windows. None takes the central crop.
            grades: `auto` takes them from the list or from the names, or else measures the IHC and grades it by
                quartiles of the training part, which reads each IHC image once; `none` leaves them out (-1).
            unpaired: draw the IHC of each item independently, with its own window and mirroring; the draw may be the
                partner.
            resize_px: side that whole tiles are resized to first (bicubic), px; None takes them as they are.
            nuclei: maps of the density of nuclei, for methods that learn it; cropped and mirrored as the IHC.

        Raises:
            MissingError: the folder does not exist.
            InputError: an unknown layout, a missing part, side or partner, an unreadable file, sides of different
                size, a tile smaller than `crop_px`, whole tiles of several sizes that are not to be paired, or tiles to
                be resized that are not squares of one size.
        """
        self.root, self.split, self.crop_px, self.seed, self.augment = root, split, crop_px, seed, augment
        self.layout = find_layout(root)
        self.part = self.layout.part(split)
        self.files = self.layout.pairs(self.part)
        self.sizes = [pair.size() for pair in self.files]
        self.resize_px, self.scale = resize_px, 1.0
        if resize_px is not None:
            _check_square(self.files, self.sizes)
            self.scale = resize_px / self.sizes[0][0]
            self.sizes = [(resize_px, resize_px)] * len(self.files)
        if crop_px is not None:
            _check_crop(self.files, self.sizes, crop_px)
        elif unpaired:
            _check_one_size(self.files, self.sizes)
        self.unpaired, self.nuclei = unpaired, nuclei
        self.grades, self._grade_source = self._find_grades() if grades == "auto" else ([UNKNOWN] * len(self.files), "")

    @property
    def names(self) -> list[str]:
        """File names without suffix, in order."""
        return [pair.name for pair in self.files]

    def describe(self) -> str:
        """A summary of the pairs in a sentence or two."""
        sizes = sorted(set(self.sizes))
        size = " x ".join(map(str, sizes[0])) + (f" to {' x '.join(map(str, sizes[-1]))}" if len(sizes) > 1 else "")
        if self.resize_px is not None:
            size += f" (resized from {self.resize_px / self.scale:.0f})"
        count = f"{len(self):,} pair{'s' * (len(self) > 1)}"
        place = self.layout.place(self.part)
        words = f"{self.layout.root}: {self.layout.name} layout, {count} of {size} px in {place}"
        if self.part == WHOLE:
            words += "; it has no train and val parts, so every split is the whole set"
        elif self.part != self.split:
            words += f"; its {self.part} part serves as {self.split}"
        if self._grade_source:
            counts = Counter(self.grades)
            words += f"; grades {self._grade_source}: " + ", ".join(
                f"{counts[grade]} of {word}" for grade, word in enumerate(GRADES)
            )
        return words

    def in_register(self) -> Self | None:
        """The same tiles with registered IHC for evaluation; None unless there is one for every tile.

        Raises:
            InputError: one has another size than its H&E.
        """
        aligned = [found for pair in self.files if (found := pair.in_register())]
        if len(aligned) < len(self.files):
            return None
        same = copy(self)
        sizes = [pair.size() for pair in aligned]
        same.files, same.sizes = aligned, sizes if self.resize_px is None else self.sizes
        return same

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pair:
        """The pair as in the first epoch."""
        return self.item(index, epoch=0)

    def item(self, index: int, epoch: int) -> Pair:
        """Read one pair as a batch of one.

        Args:
            index: index in the data set, from 0.
            epoch: determines the random change, with seed and index.

        Raises:
            InputError: a file is damaged.
        """
        change = other_change = self._change(index, generator(self.seed, "augment", epoch, index))
        other = index
        if self.unpaired:
            draws = generator(self.seed, "unpaired", epoch, index)
            other = int(torch.randint(len(self), (), generator=draws))
            he, ihc = self.files[index].load_he(), self.files[other].load_ihc()
            other_change = self._change(other, draws)
        else:
            he, ihc = self.files[index].load()
        return Pair(
            jitter_colour(to_tensor(crop_and_mirror(self._resized(he), change)), change),
            to_tensor(crop_and_mirror(self._resized(ihc), other_change)),
            torch.tensor([self.grades[index]]),
            torch.tensor([index]),
            (self.files[index].name,),
            self._density(other, other_change, ihc),
        )

    def _change(self, index: int, draws: torch.Generator) -> Change:
        size = self.sizes[index]
        window = size if self.crop_px is None else (self.crop_px, self.crop_px)
        if self.augment is None:
            return centre_window(size, window)
        return draw_change(self.augment, size, window, draws)

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self.resize_px is None:
            return image
        return np.asarray(Image.fromarray(image).resize((self.resize_px, self.resize_px), Image.Resampling.BICUBIC))

    def _density(self, index: int, change: Change, ihc: NDArray[np.uint8]) -> Tensor | None:
        if self.nuclei is None:
            return None
        density = crop_and_mirror(self._resized(self.nuclei.of(self.files[index].name, lambda: ihc)), change)
        return torch.from_numpy(density.copy())[None, None].float() / 255

    def _find_grades(self) -> tuple[list[int], str]:
        """Grades and their source, which is the same for every part."""
        part = next((part for part in ("train", WHOLE) if part in self.layout.parts), self.part)
        train = self.files if part == self.part else self.layout.pairs(part)
        listed = grades_from_list([*self.files, *train])
        if listed is not None:
            return listed[: len(self)], f"from {self.layout.root.name}"
        named = grades_from_names([pair.name for pair in (*self.files, *train)])
        if named is not None:
            return named[: len(self)], "from the file names"
        if part not in ("train", WHOLE):
            raise InputError(f"{self.root} has no train part and no grades in its file names, so none can be derived")
        limits = grade_limits(measure_positive_fractions(train))
        measured = grades_from_fractions(measure_positive_fractions(self.files), limits)
        source = "by quartiles of the DAB-positive fraction of the training IHC"
        if given := sum(pair.grade is not None for pair in train):
            source += f", because {self.layout.root.name} grades only {given} of {len(train)} pairs"
        return measured, source


def collate(pairs: Sequence[Pair]) -> Pair:
    """Collate pairs into one batch, in order.

    Raises:
        ShapeError: they differ in size.
    """
    first = pairs[0]
    for other in pairs:
        if other.he.shape[1:] != first.he.shape[1:]:
            raise ShapeError(
                f"{first.names[0]} is {first.he.shape[-1]} x {first.he.shape[-2]} px but {other.names[0]} is "
                f"{other.he.shape[-1]} x {other.he.shape[-2]} px; set a crop, or batch 1, for tiles of several sizes"
            )
    return Pair(
        torch.cat([pair.he for pair in pairs]),
        torch.cat([pair.ihc for pair in pairs]),
        torch.cat([pair.grade for pair in pairs]),
        torch.cat([pair.index for pair in pairs]),
        tuple(name for pair in pairs for name in pair.names),
        None if first.density is None else torch.cat([pair.density for pair in pairs if pair.density is not None]),
    )


def epoch_order(length: int, seed: int, epoch: int) -> list[int]:
    """The random order of an epoch, a permutation of the data set."""
    order: list[int] = torch.randperm(length, generator=generator(seed, "order", epoch)).tolist()
    return order


def _check_crop(files: Sequence[PairFiles], sizes: Sequence[tuple[int, int]], crop_px: int) -> None:
    if crop_px < 1:
        raise InputError(f"crop_px is {crop_px}; it must be at least 1, or None for whole tiles")
    for pair, (width, height) in zip(files, sizes, strict=True):
        if min(width, height) < crop_px:
            raise InputError(
                f"{pair.he} is {width} x {height} px, smaller than the crop of {crop_px} px; lower the crop"
            )


def _check_square(files: Sequence[PairFiles], sizes: Sequence[tuple[int, int]]) -> None:
    for pair, (width, height) in zip(files, sizes, strict=True):
        if width != height or width != sizes[0][0]:
            raise InputError(
                f"{pair.he} is {width} x {height} px, but only squares of one size can be resized together; "
                "crop the tiles, or remove resize_px from [data]"
            )


def _check_one_size(files: Sequence[PairFiles], sizes: Sequence[tuple[int, int]]) -> None:
    for pair, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            raise InputError(
                f"{files[0].he} is {' x '.join(map(str, sizes[0]))} px but {pair.he} is {' x '.join(map(str, size))}; "
                "unpaired whole tiles must have one size: set a crop"
            )
