"""The files of a pair: the H&E of a section, the IHC of its neighbour, and their metadata."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from restain.errors import InputError
from restain.folders import pair_by_name
from restain.image import image_size, load_image


@dataclass(frozen=True)
class PairFiles:
    """The file or files of one pair."""

    name: str
    he: Path
    ihc: Path
    """The same file as `he` if one file shows both, H&E left, IHC right."""
    case: str | None = None
    """The patient or slide, if a list gives it."""
    grade: int | None = None
    """0 to 3 for 0, 1+, 2+, 3+, if a list gives it."""

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
                "both sides of a pair must have the same size"
            )
        return width, height

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """H&E and IHC, each H x W x 3."""
        if self.he == self.ihc:
            both = load_image(self.he)
            middle = both.shape[1] // 2
            return both[:, :middle], both[:, middle:]
        return load_image(self.he), load_image(self.ihc)

    def in_register(self) -> "PairFiles | None":
        """The same pair with IHC registered with the H&E for evaluation, if there is one.

        It has the same name, in a folder beside the IHC's that ends in `_aligned`, such as `valB_aligned`.
        """
        folder = self.ihc.parent
        aligned = folder.with_name(f"{folder.name}_aligned") / self.ihc.name
        return replace(self, ihc=aligned) if self.he != self.ihc and aligned.is_file() else None

    def load_he(self) -> NDArray[np.uint8]:
        """The H&E alone, H x W x 3."""
        return self.load()[0] if self.he == self.ihc else load_image(self.he)

    def load_ihc(self) -> NDArray[np.uint8]:
        """The IHC alone, H x W x 3."""
        return self.load()[1] if self.he == self.ihc else load_image(self.ihc)


def pair_files(he_folder: Path, ihc_folder: Path) -> list[PairFiles]:
    """Pair the images of two folders by name without suffix, in order of name.

    Raises:
        MissingError, InputError: as in `restain.folders.pair_by_name`.
    """
    return [PairFiles(name, he, ihc) for name, (he, ihc) in pair_by_name(he_folder, ihc_folder).items()]
