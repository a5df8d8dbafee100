"""Pairs of slides: two files, or a CSV of many, with cases and splits."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from restain.errors import InputError, MissingError
from restain.folders import is_file_named, read_text, separator
from restain.image import check_mpp
from restain.randomness import derive_seed

COLUMNS = ("he", "ihc", "case", "grade", "split", "transform", "he_mpp", "ihc_mpp")
"""The columns that are read; the first two are required."""
_SPLITS = ("train", "val")
_GRADES = ("", "0", "1+", "2+", "3+")


@dataclass(frozen=True)
class SlidePair:
    """Two slides of neighbouring sections."""

    he: Path
    ihc: Path
    name: str
    """Of the pair, unique; its tiles begin with it."""
    case: str
    split: str = "train"
    """`train` or `val`."""
    grade: str = ""
    transform: Path | None = None
    """A file with the transform, if it is known."""
    he_mpp: float | None = None
    """µm per pixel if the file has none or a wrong value."""
    ihc_mpp: float | None = None


def one_pair(
    he: Path, ihc: Path, *, transform: Path | None = None, he_mpp: float | None = None, ihc_mpp: float | None = None
) -> SlidePair:
    """Two slides as one case."""
    return SlidePair(he, ihc, _stem(he), _stem(he), transform=transform, he_mpp=he_mpp, ihc_mpp=ihc_mpp)


def read_slide_pairs(path: Path, validation: float, seed: int) -> list[SlidePair]:
    """Read a CSV of slides; paths are relative to it. Without a column `split`, cases are split at random.

    Args:
        path: the file, with a header; see `COLUMNS`. Without a case, the name of the H&E's file is the case.
        validation: about this share of the cases is for validation, 0 to 1; at least one of two or more if above 0.
        seed: decides which ones; a case's part does not depend on which others there are, as far as possible.

    Raises:
        MissingError: a file does not exist.
        InputError: a value that cannot be used, a case in two parts, or rows with and without a split.
    """
    rows = _rows(path)
    pairs = [_pair(path, line, row) for line, row in rows]
    pairs = _named(pairs)
    given = [row.get("split") for _, row in rows]
    if not any(given):
        return _split_by_case(pairs, validation, seed)
    if not all(given):
        line = rows[[bool(split) for split in given].index(False)][0]
        raise InputError(f"{path}, line {line}: no split, but other rows have one; fill in train or val in all or none")
    parts: dict[str, str] = {}
    for pair in pairs:
        if parts.setdefault(pair.case, pair.split) != pair.split:
            raise InputError(f"{path}: case {pair.case} is both in train and in val; a case must be in one of them")
    return pairs


def columns_not_read(path: Path) -> list[str]:
    """The further columns of a CSV of slides, such as one for cases that has another name.

    Raises:
        MissingError, InputError: as in `read_slide_pairs`.
    """
    return [name for name in _rows(path)[0][1] if name and name not in COLUMNS]


def _split_by_case(pairs: Sequence[SlidePair], validation: float, seed: int) -> list[SlidePair]:
    """Choose whole cases for validation."""
    draws = {pair.case: derive_seed(seed, "split", pair.case) / 2**63 for pair in pairs}
    held_out = {case for case, draw in draws.items() if draw < validation}
    if validation > 0 and len(draws) > 1:
        held_out = held_out or {min(draws, key=draws.__getitem__)}
        if validation < 1 and len(held_out) == len(draws):
            held_out.remove(max(draws, key=draws.__getitem__))
    return [replace(pair, split="val" if pair.case in held_out and len(draws) > 1 else "train") for pair in pairs]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Line and values of each row."""
    try:
        text = read_text(path, "a CSV of slides")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator(text), skipinitialspace=True)
        rows = [(reader.line_num, row) for row in reader]
        header = [name.strip().lower() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a CSV: {error}") from error
    if lacking := [column for column in COLUMNS[:2] if column not in header]:
        raise InputError(f"{path} has no column {', '.join(lacking)}; expected a header with {','.join(COLUMNS)}")
    if not rows:
        raise InputError(f"{path} lists no slides")
    for line, row in rows:
        if None in row or None in row.values():
            raise InputError(f"{path}, line {line}: expected {len(header)} values, as many as the header has columns")
    return [(line, {name.strip().lower(): (value or "").strip() for name, value in row.items()}) for line, row in rows]


def _pair(path: Path, line: int, row: dict[str, str]) -> SlidePair:
    files = {}
    for column in ("he", "ihc", "transform"):
        if not row.get(column):
            if column != "transform":
                raise InputError(f"{path}, line {line}: no file under {column}")
            continue
        files[column] = path.parent / row[column]
        if not is_file_named(files[column]):
            raise MissingError(f"{path}, line {line}: {files[column]} does not exist; paths are relative to the CSV")
    split, grade = row.get("split", "").lower() or "train", row.get("grade", "")
    if split not in _SPLITS:
        raise InputError(f"{path}, line {line}: split is '{split}'; expected train or val")
    if grade not in _GRADES:
        raise InputError(f"{path}, line {line}: grade is '{grade}'; expected 0, 1+, 2+ or 3+, or nothing")
    mpp = {column: _mpp(path, line, column, row.get(column, "")) for column in ("he_mpp", "ihc_mpp")}
    case = row.get("case") or _stem(files["he"])
    return SlidePair(files["he"], files["ihc"], "", case, split, grade, files.get("transform"), **mpp)


def _mpp(path: Path, line: int, column: str, word: str) -> float | None:
    if not word:
        return None
    try:
        value = float(word)
    except ValueError as error:
        raise InputError(f"{path}, line {line}: {column} '{word}' is not a number") from error
    check_mpp(value, f"{path}, line {line}: {column}")
    return value


def _named(pairs: Sequence[SlidePair]) -> list[SlidePair]:
    """Name each pair after its case and H&E, and after its IHC where an H&E has several."""
    shared = Counter(pair.he.resolve() for pair in pairs)
    named = []
    for pair in pairs:
        stem = _stem(pair.he)
        name = stem if stem.startswith(pair.case) else f"{pair.case}_{stem}"
        name += f"_{_stem(pair.ihc)}" if shared[pair.he.resolve()] > 1 else ""
        named.append(replace(pair, name=name.replace("/", "-")))
    twice = [name for name, count in Counter(pair.name for pair in named).items() if count > 1]
    if twice:
        raise InputError(f"two pairs of slides would both be named {twice[0]}; rename a file or give them cases")
    return named


def _stem(path: Path) -> str:
    name = path.name
    ending = next((end for end in (".ome.tiff", ".ome.tif") if name.lower().endswith(end)), path.suffix)
    return name[: len(name) - len(ending)]
