"""Pairs listed in a CSV file, for data whose names and folders differ: one row per pair.

Columns `he` and `ihc` name the two files, relative to the CSV file or absolute; `case`, `grade`, `split` are optional.
"""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from restain.data.partners import PairFiles
from restain.errors import InputError, MissingError
from restain.folders import separator, some

COLUMNS = ("he", "ihc", "case", "grade", "split")
"""The columns that are read; the first two are required."""
MOST_BYTES = 2**28
"""The largest CSV file that is read: about a million pairs."""

_GRADE = re.compile(r"([0-3])(\.0)?\+?")
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Listed:
    """What a CSV file lists."""

    parts: dict[str | None, tuple[PairFiles, ...]]
    """The pairs of each split, in order of name; under None if the file has no splits."""
    ignored: tuple[str, ...]
    """Further columns."""


@dataclass(frozen=True)
class _Row:
    """One line, its values by column."""

    place: str
    """File and line, for messages."""
    values: dict[str, str]


def read_pairs(path: Path) -> Listed:
    """Read a CSV file of pairs, separated by commas, semicolons or tabs, in UTF-8 with or without a byte order mark.

    A pair is named after its H&E file; if two pairs of a split would share a name, all are named after the path of the
    H&E as written.

    Raises:
        MissingError: the file, or a file that it names, does not exist.
        InputError: not a CSV file with the columns `he` and `ihc`; a row with too few or too many values, with a grade
            other than 0, 1+, 2+, 3+ or a split other than train, val, test; an H&E image that is listed twice.
    """
    header, rows = _rows(path)
    if not rows:
        raise InputError(f"{path} lists no pairs; expected a row for each below the header")
    splits = [_split(row) for row in rows]
    if None in splits and len(set(splits)) > 1:
        raise InputError(
            f"{rows[splits.index(None)].place} has no split, but other rows have one; "
            "fill in train, val or test, or leave the column empty in every row"
        )
    files = [(_file(row, "he", path.parent), _file(row, "ihc", path.parent)) for row in rows]
    _check_listed_once(rows, [he for he, _ in files])
    parts: dict[str | None, list[PairFiles]] = {split: [] for split in (*_SPLITS, None) if split in splits}
    for row, split, name, (he, ihc) in zip(rows, splits, _names(rows, splits, files), files, strict=True):
        parts[split].append(PairFiles(name, he, ihc, row.values.get("case") or None, _grade(row)))
    ordered = {split: tuple(sorted(pairs, key=lambda pair: pair.name)) for split, pairs in parts.items()}
    return Listed(ordered, tuple(column for column in header if column and column not in COLUMNS))


def _rows(path: Path) -> tuple[list[str], list[_Row]]:
    """The header in lower case, and the rows that are not blank."""
    text = _text(path)
    header: list[str] = []
    rows = []
    for line, values in _lines(path, text):
        if not header:
            header = [value.lower() for value in values]
            _check_header(path, header)
        elif len(values) != len(header):
            raise InputError(
                f"{path}, line {line} has {len(values)} values, but the header names {len(header)} columns; "
                'put a name with a separator in it into quotes ("...")'
            )
        else:
            rows.append(_Row(f"{path}, line {line}", dict(zip(header, values, strict=True))))
    if not header:
        raise InputError(f"{path} is empty; expected a header with the columns {','.join(COLUMNS)}")
    return header, rows


def _lines(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator(text), skipinitialspace=True, strict=True)
    try:
        for values in reader:
            stripped = [value.strip() for value in values]
            if any(stripped):
                yield reader.line_num, stripped
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} is not CSV: {error}") from error


def _text(path: Path) -> str:
    if not path.exists():
        raise MissingError(f"{path} does not exist; a CSV file of pairs is expected")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file; a CSV file of pairs is expected")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path} has more than {MOST_BYTES:,} bytes; a CSV file of pairs is expected")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise InputError(f"{path} is not text in UTF-8; save it as 'CSV UTF-8'")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _check_header(path: Path, header: Sequence[str]) -> None:
    if lacking := [column for column in ("he", "ihc") if column not in header]:
        raise InputError(
            f"{path} has no column {' and no column '.join(lacking)} but {some(header)}; "
            f"expected a header with {','.join(COLUMNS)}, of which he and ihc are required"
        )
    if twice := [column for column, count in Counter(header).items() if column in COLUMNS and count > 1]:
        raise InputError(f"{path} has the column {twice[0]} twice; keep one")


def _file(row: _Row, column: str, folder: Path) -> Path:
    """The file of a row: as written, with the other slashes, or in another Unicode normalisation."""
    written = row.values[column]
    if not written:
        raise InputError(f"{row.place} has no file in column {column}")
    slashes = PureWindowsPath(written).as_posix()
    forms = (written, slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")))
    for form in forms:
        try:
            path = folder / Path(form).expanduser()
            if path.is_file():
                return path
        except (OSError, RuntimeError, ValueError):  # too long a name, or an unknown home
            continue
    encoding = "; if the name looks wrong, save the CSV file as UTF-8" if not written.isascii() else ""
    raise MissingError(f"{row.place}: {folder / written} does not exist; paths are relative to the CSV file{encoding}")


def _split(row: _Row) -> str | None:
    split = row.values.get("split", "").lower()
    if split and split not in _SPLITS:
        raise InputError(f"{row.place}: split is '{row.values['split']}'; expected train, val or test")
    return split or None


def _grade(row: _Row) -> int | None:
    word = row.values.get("grade", "")
    if not word:
        return None
    found = _GRADE.fullmatch(word)
    if not found:
        raise InputError(f"{row.place}: grade is '{word}'; expected 0, 1+, 2+ or 3+, or nothing")
    return int(found[1])


def _check_listed_once(rows: Sequence[_Row], he: Sequence[Path]) -> None:
    seen: dict[Path, _Row] = {}
    for row, path in zip(rows, he, strict=True):
        if path in seen:
            raise InputError(
                f"{row.place}: {path} is listed already, at {seen[path].place}; each H&E image has one row"
            )
        seen[path] = row


def _names(rows: Sequence[_Row], splits: Sequence[str | None], files: Sequence[tuple[Path, Path]]) -> list[str]:
    """A name for each pair, once per split."""
    names = [he.stem for he, _ in files]
    if len(set(zip(splits, names, strict=True))) < len(names):
        written = [PureWindowsPath(row.values["he"]).with_suffix("").as_posix() for row in rows]
        names = [name.removeprefix("./").replace("/", "_") for name in written]
    for name, count in Counter(zip(splits, names, strict=True)).items():
        if count > 1:
            first, second = [row for row, *key in zip(rows, splits, names, strict=True) if tuple(key) == name][:2]
            raise InputError(
                f"{second.place}: this H&E and the one at {first.place} would both be named {name[1]}; rename one"
            )
    return names
