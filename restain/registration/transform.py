"""The transform between two slides: a smooth deformation, then an affine map; as JSON, and in formats of other tools.

Where the tissue at p on the H&E slide lies on the IHC slide: affine(p + d(p)), in µm from the left upper corner of the
first level, by the micrometres per pixel that each file says of itself.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from restain.errors import InputError
from restain.folders import read_text
from restain.image import atomic_path
from restain.registration.field import Affine, Field, Floats

FORMAT = "restain slide transform 1"
"""The first entry of our JSON."""

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_LONGEST = 1e8  # of what a transform counts, px or µm: a hundred metres
_LEAST_AREA = 1e-6  # factor by which a usable map changes areas, at the least


@dataclass(frozen=True)
class Scan:
    """The file of one slide, as far as a transform depends on it."""

    name: str
    size: tuple[int, int]
    """Width and height of the first level in px."""
    mpp: float
    """µm per pixel of the first level."""

    def __str__(self) -> str:
        return f"{self.name} ({self.size[0]} x {self.size[1]} px at {self.mpp:g} µm)"

    @property
    def size_um(self) -> tuple[float, float]:
        """Width and height in µm."""
        return self.size[0] * self.mpp, self.size[1] * self.mpp


@dataclass(frozen=True)
class Transform:
    """From the slide of the H&E to that of the IHC."""

    he: Scan
    ihc: Scan
    affine: Affine
    """In µm, after the bend."""
    bend: Field | None = None
    """The smooth part, on the slide of the H&E; None: there is none."""
    figures: dict[str, float] = field(default_factory=dict)
    """What is known of how well it fits, by name."""

    def __call__(self, points: Floats) -> Floats:
        """Map positions on the H&E slide to the IHC slide, N x 2 in µm each."""
        return self.affine(points if self.bend is None else self.bend(points))

    def back(self, points: Floats) -> Floats:
        """Map positions on the IHC slide to the H&E slide, N x 2 in µm each."""
        unbent = self.affine.inverse(points)
        return unbent if self.bend is None else self.bend.led_back(unbent)

    @property
    def scale(self) -> float:
        """How many times longer the tissue is on the IHC slide, by the µm that both files say."""
        return math.sqrt(abs(np.linalg.det(self.affine.matrix[:, :2])))

    @property
    def is_mirrored(self) -> bool:
        """Whether the section is mirrored on the IHC slide."""
        return bool(np.linalg.det(self.affine.matrix[:, :2]) < 0)

    @property
    def angle(self) -> float:
        """By how many degrees the section is turned clockwise on the IHC slide, after it was mirrored left to right."""
        a, b, c, d = self.affine.matrix[:, :2].ravel()
        sign = -1.0 if self.is_mirrored else 1.0
        return math.degrees(math.atan2(sign * c - b, sign * a + d))

    def save(self, path: Path) -> None:
        """Write it as JSON that `load_transform` reads back to the last bit.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
        """
        bend = None
        if self.bend is not None:
            bend = {
                "origin_um": list(self.bend.origin),
                "spacing_um": self.bend.spacing,
                "coefficients_um": self.bend.coefficients.tolist(),
            }
        content = {
            "format": FORMAT,
            "he": _described(self.he),
            "ihc": _described(self.ihc),
            "affine_um": self.affine.matrix.tolist(),
            "figures": {name: value if math.isfinite(value) else None for name, value in self.figures.items()},
            "bend": bend,
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def load_transform(path: Path) -> Transform:
    """Read a transform that was saved as JSON.

    Raises:
        MissingError: there is no such file.
        InputError: it is no such JSON.
    """
    text = read_text(path, "the file of a transform")
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"{path} is not a slide transform; expected JSON whose 'format' is '{FORMAT}'")
        bend = content["bend"]
        smooth = bend and Field(
            np.array(bend["coefficients_um"], np.float64), _pair(bend["origin_um"]), float(bend["spacing_um"])
        )
        affine = Affine(np.array(content["affine_um"], np.float64))
        figures = {name: math.nan if value is None else float(value) for name, value in content["figures"].items()}
        scans = _scan(content["he"]), _scan(content["ihc"])
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged as a slide transform ({error}); make it anew") from error
    _check(path, affine)
    _check_sizes(path, scans, smooth or None)
    return Transform(*scans, affine, smooth or None, figures)


def read_transform(path: Path, he: Scan, ihc: Scan, *, inverse: bool = False) -> Transform:
    """Read the transform of two slides: our JSON, or a matrix of 2 x 3 or 3 x 3 as QuPath and VALIS write it.

    A matrix takes pixels of the first level of the H&E to those of the IHC. Numbers may be set in brackets, commas,
    spaces and lines in any way, row by row.

    Args:
        path: the file.
        he: the slide of the H&E; our JSON must be of the same size and resolution.
        ihc: that of the IHC.
        inverse: whether a matrix takes pixels of the IHC to those of the H&E instead.

    Raises:
        MissingError: there is no such file.
        InputError: it is neither, or belongs to other slides.
    """
    text = read_text(path, "the file of a transform")
    if FORMAT in text:
        found = load_transform(path)
        if (found.he.name, found.ihc.name) == (ihc.name, he.name) and he.name != ihc.name:
            raise InputError(f"{path} leads from {found.he} to {found.ihc}; exchange the two slides")
        for wanted, own in ((he, found.he), (ihc, found.ihc)):
            if own.size != wanted.size or not math.isclose(own.mpp, wanted.mpp, rel_tol=1e-3):
                raise InputError(f"{path} belongs to {own} but the slide is {wanted}; give that of these slides")
        return _rescaled(found, he, ihc)
    numbers = [float(number) for number in _NUMBER.findall(text)]
    if len(numbers) not in (6, 9):
        raise InputError(
            f"{path} holds {len(numbers)} numbers; expected our JSON, or a matrix of 2 x 3 or 3 x 3, 6 or 9 numbers"
        )
    if len(numbers) == 9 and not np.allclose(numbers[6:], (0, 0, 1), atol=1e-9):
        raise InputError(f"{path} is not affine: the last row of its matrix is {numbers[6:]}; expected 0, 0, 1")
    pixels = Affine(np.array(numbers[:6]).reshape(2, 3))
    _check(path, pixels)
    if inverse:
        pixels = pixels.inverse
    to_px, to_um = (Affine(np.eye(2, 3) * factor) for factor in (1 / he.mpp, ihc.mpp))
    return Transform(he, ihc, to_um.after(pixels).after(to_px))


def _rescaled(found: Transform, he: Scan, ihc: Scan) -> Transform:
    """The same transform from pixel to pixel, where the slides have slightly other micrometres per pixel now."""
    first, second = he.mpp / found.he.mpp, ihc.mpp / found.ihc.mpp
    affine = Affine(found.affine.matrix * second * np.array([1 / first, 1 / first, 1]))
    bend = found.bend and Field(
        found.bend.coefficients * first,
        (found.bend.origin[0] * first, found.bend.origin[1] * first),
        found.bend.spacing * first,
    )
    return Transform(he, ihc, affine, bend, found.figures)


def _check_sizes(path: Path, scans: Sequence[Scan], bend: Field | None) -> None:
    """Refuse what no slides have: sides, scales or a bend that are out of range or not finite."""
    for scan in scans:
        if not (min(scan.size) >= 1 and max(scan.size) <= _LONGEST and 1 / _LONGEST < scan.mpp < _LONGEST):
            raise InputError(f"{path} is damaged: no slide is {scan}; make it anew")
    if bend is not None:
        numbers = np.array([*bend.origin, bend.spacing])
        if (
            not (np.abs(numbers) < _LONGEST).all()
            or bend.spacing <= 0
            or not (np.abs(bend.coefficients) < _LONGEST).all()
        ):
            raise InputError(f"{path} is damaged: its bend has numbers out of range; make it anew")


def _check(path: Path, affine: Affine) -> None:
    if not (np.abs(affine.matrix) < _LONGEST).all():
        raise InputError(f"{path} maps places out of reach, by numbers of {_LONGEST:g} and more; make it anew")
    area = abs(np.linalg.det(affine.matrix[:, :2]))
    if not area > _LEAST_AREA:
        raise InputError(f"{path} maps all places onto a line or nowhere (determinant {area:g}); make it anew")


def _described(scan: Scan) -> dict[str, Any]:
    return {"name": scan.name, "size_px": list(scan.size), "mpp": scan.mpp}


def _scan(content: dict[str, Any]) -> Scan:
    width, height = content["size_px"]
    return Scan(str(content["name"]), (int(width), int(height)), float(content["mpp"]))


def _pair(values: list[float]) -> tuple[float, float]:
    x, y = values
    return float(x), float(y)
