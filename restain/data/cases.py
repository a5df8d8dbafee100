"""Which case (a patient, a slide) a tile belongs to, by its name or by a list of pairs."""

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from restain.data.layouts import LIST_NAME
from restain.data.pairs_csv import read_pairs
from restain.data.partners import PairFiles
from restain.errors import InputError


def cases_by_list(files: Sequence[PairFiles]) -> Callable[[str], str] | None:
    """The case of each pair by name, if a list gives one for every pair and names are unique among cases."""
    cases = {(pair.name, pair.case) for pair in files if pair.case is not None}
    by_name = {name: case for name, case in cases if case is not None}
    complete = all(pair.case is not None for pair in files) and len(by_name) == len(cases)
    return by_name.__getitem__ if files and complete else None


def find_list(folder: Path) -> Path | None:
    """The `pairs.csv` of a folder of images: in it, or in one of the two folders above."""
    folder = folder.resolve()
    return next(
        (path for path in (where / LIST_NAME for where in (folder, *folder.parents[:2])) if path.is_file()), None
    )


def cases_in_list(path: Path, folder: Path, names: Collection[str]) -> Callable[[str], str] | None:
    """The cases of the images in a folder, as a list of pairs gives them.

    Args:
        path: the list.
        folder: of one side of the pairs.
        names: of the images, without ending.

    Returns:
        From a name to its case; None where the list gives none for some image.

    Raises:
        MissingError, InputError: as in `read_pairs`.
    """
    folder, found = folder.resolve(), dict[str, str]()
    for pairs in read_pairs(path).parts.values():
        for pair in pairs:
            for file in (pair.he, pair.ihc):
                if pair.case is not None and file.parent.resolve() == folder:
                    found[file.stem] = pair.case
    return found.__getitem__ if found.keys() >= set(names) else None


def cases_by_pattern(pattern: str) -> Callable[[str], str]:
    """Turn a regular expression into a function from a tile's name to its case.

    Args:
        pattern: searched for in the name without ending; the case is what its first group matched, or all of it where
            it has none. `^[^_]+` takes what comes before the first underscore.

    Returns:
        The function. It raises InputError for a name in which the pattern does not occur, or finds nothing.

    Raises:
        InputError: not a regular expression.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"'{pattern}' is not a regular expression: {error}") from error

    def case(name: str) -> str:
        match = compiled.search(name)
        if match is None:
            raise InputError(f"'{pattern}' does not occur in the tile name '{name}', so its case is unknown")
        found: str | None = match.group(1 if compiled.groups else 0)
        if not found:
            raise InputError(f"'{pattern}' finds nothing in the tile name '{name}', so its case is unknown")
        return found

    return case
