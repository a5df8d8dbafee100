"""Landmarks of both sections in the formats of ANHIR and ACROBAT, and the registration error of a transform.

ANHIR (Borovec et al., IEEE TMI 2020): one CSV for each slide with columns X and Y in px; line n of both is the same
place. ACROBAT (Weitz et al., Scientific Data 2023): one CSV for both slides of many cases, in µm.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from restain.errors import InputError
from restain.folders import IMAGE_SUFFIXES, read_text
from restain.image import atomic_path
from restain.registration.field import Floats
from restain.registration.transform import Scan, Transform
from restain.slides.kinds import SLIDE_SUFFIXES

_ACROBAT = ("anon_id", "anon_filename_he", "anon_filename_ihc", "point_id", "ihc_x", "ihc_y", "mpp_ihc_10X",
            "mpp_he_10X", "ihc_antibody", "he_x", "he_y")  # fmt: skip
_ENDINGS = IMAGE_SUFFIXES | SLIDE_SUFFIXES | {".ome", ".zarr", ".czi", ".vsi", ".qptiff", ".isyntax", ".jp2"}
_PLACES = ("he_x", "he_y", "ihc_x", "ihc_y")


@dataclass(frozen=True)
class Landmarks:
    """Positions on both slides, in µm from the upper left corner, N x 2 each."""

    he: Floats
    ihc: Floats


@dataclass(frozen=True)
class LandmarkError:
    """Registration error of a transform at landmarks, on the IHC slide."""

    um: Floats
    """Distance between each mapped landmark of the H&E and its partner on the IHC slide, N, in µm."""
    relative: Floats
    """The same as a share of the diagonal of the IHC slide, N (rTRE of ANHIR)."""

    @property
    def median_um(self) -> float:
        """The median."""
        return float(np.median(self.um))

    @property
    def high_um(self) -> float:
        """The 90th percentile."""
        return float(np.quantile(self.um, 0.9))

    @property
    def median_relative(self) -> float:
        """The median, relative to the diagonal."""
        return float(np.median(self.relative))

    @property
    def high_relative(self) -> float:
        """The 90th percentile, relative to the diagonal."""
        return float(np.quantile(self.relative, 0.9))


def landmark_error(transform: Transform, landmarks: Landmarks) -> LandmarkError:
    """Map the landmarks of the H&E to the IHC slide and measure their distance to their partners."""
    um = np.hypot(*(transform(landmarks.he) - landmarks.ihc).T)
    return LandmarkError(um, um / math.hypot(*transform.ihc.size_um))


def read_landmarks(files: Sequence[Path], he: Scan, ihc: Scan) -> Landmarks:
    """Read landmarks of two slides: ANHIR's two files, H&E first, or ACROBAT's one.

    Of ACROBAT's file the lines of these slides are taken, by the names of the files without ending; where it holds one
    pair of slides, or does not say which, all lines.

    Raises:
        MissingError: a file does not exist.
        InputError: neither form, numbers that are none, different counts, no line for these slides, or targets that are
            not public.
    """
    if len(files) == 2:
        places = [_anhir(file, scan) for file, scan in zip(files, (he, ihc), strict=True)]
        if len(places[0]) != len(places[1]):
            raise InputError(
                f"{files[0]} holds {len(places[0])} landmarks, {files[1]} {len(places[1])}; "
                "each line of both must be the same landmark"
            )
        return Landmarks(*places)
    if len(files) != 1:
        raise InputError(f"{len(files)} files of landmarks; expected two of ANHIR, H&E first, or one of ACROBAT")
    return _acrobat(files[0], he, ihc)


def write_anhir(path: Path, places: Floats, scan: Scan) -> None:
    """Write the landmarks of one slide, N x 2 in µm, as ANHIR does: numbered, X and Y in px.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    rows = ((number, *_rounded(place / scan.mpp)) for number, place in enumerate(places))
    _write(path, ("", "X", "Y"), rows)


def write_acrobat(path: Path, landmarks: Landmarks, he: Scan, ihc: Scan, antibody: str = "") -> None:
    """Write landmarks of two slides as ACROBAT does, in µm, targets included.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    rows = (
        (0, he.name, ihc.name, number, *_rounded(on_ihc), ihc.mpp, he.mpp, antibody, *_rounded(on_he))
        for number, (on_he, on_ihc) in enumerate(zip(landmarks.he, landmarks.ihc, strict=True))
    )
    _write(path, _ACROBAT, rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def _rounded(place: Floats) -> tuple[float, float]:
    x, y = place
    return round(float(x), 3), round(float(y), 3)


def _table(path: Path, columns: Sequence[str], form: str) -> list[dict[str, str]]:
    try:
        reader = csv.DictReader(io.StringIO(read_text(path, "a CSV of landmarks"), newline=""))
        rows = list(reader)
        found = reader.fieldnames or []
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a CSV: {error}") from error
    if missing := [column for column in columns if column not in found]:
        raise InputError(f"{path} has no column {', '.join(missing)}; {form}")
    if not rows:
        raise InputError(f"{path} holds no landmarks")
    return rows


def _anhir(path: Path, scan: Scan) -> Floats:
    rows = _table(path, ("X", "Y"), "expected the columns X and Y of ANHIR, in px, one file for each slide")
    return _numbers(path, rows, ("X", "Y")) * scan.mpp


def _acrobat(path: Path, he: Scan, ihc: Scan) -> Landmarks:
    rows = _table(
        path, _PLACES, "expected the columns of ACROBAT (he_x, he_y, ihc_x, ihc_y, in µm), or two files of ANHIR"
    )
    pairs = {(row.get("anon_filename_he"), row.get("anon_filename_ihc")) for row in rows}
    if len(pairs) > 1:
        wanted = _stem(he.name), _stem(ihc.name)
        own = [
            row
            for row in rows
            if (_stem(row.get("anon_filename_he") or ""), _stem(row.get("anon_filename_ihc") or "")) == wanted
        ]
        if not own:
            raise InputError(f"{path} has no landmarks of {he.name} and {ihc.name}, only of {len(pairs)} other pairs")
        rows = own
    if not any((row["he_x"] or "").strip() for row in rows):
        raise InputError(f"{path} holds no places on the H&E (he_x, he_y are empty), so nothing can be measured by it")
    places = _numbers(path, rows, _PLACES)
    return Landmarks(places[:, :2], places[:, 2:])


def _numbers(path: Path, rows: Sequence[dict[str, str]], columns: Sequence[str]) -> Floats:
    try:
        values = np.array([[float(row[column]) for column in columns] for row in rows])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not every landmark has numbers in {', '.join(columns)} ({error})") from error
    if not np.isfinite(values).all():
        raise InputError(f"{path}: not every landmark has finite numbers in {', '.join(columns)}")
    return values


def _stem(name: str) -> str:
    """A file's name without folder and endings, in lower case: slides are often converted. Other dots belong to it."""
    path = Path(name.lower())
    while path.suffix in _ENDINGS:
        path = path.with_suffix("")
    return path.name
