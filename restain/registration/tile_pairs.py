"""Aligns one pair of an existing data set, crops it to the common area, and writes it under its name."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from restain.data.grades import GRADES
from restain.data.layouts import WHOLE, find_layout
from restain.data.pairs_csv import COLUMNS
from restain.data.partners import PairFiles
from restain.errors import ConfigError, InputError
from restain.image import RGB, atomic_path, load_image, save_image, to_tensor
from restain.registration.crop import Crop, middle_square, shared_rectangle, square_nearest_middle
from restain.registration.tiles import align_tile
from restain.registration.verdict import Bars, Figures
from restain.registration.warp import places_on, warp

PairVerdict = Literal["aligned", "kept", "left out"]

MULTIPLE_PX = 16
"""Sides of cropped tiles are multiples of this, because networks halve images several times."""
LEAST_SIDE = 0.5
"""A pair is left out if its common area is narrower than this share of the tile's shorter side."""


@dataclass(frozen=True)
class AlignSettings:
    """How the pairs of a data set are aligned."""

    mpp: float | None = None
    """Micrometres per pixel of the tiles; without it residuals are in px only."""
    size_px: int | None = None
    """Side of the square that is cut out of every pair; None keeps all that a pair shares."""
    drop_below: float | None = None
    """Pairs that are not aligned, or whose agreement is less, are left out; None keeps them as they were."""
    bars: Bars = field(default_factory=Bars)
    """Requirements on a pair."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.size_px is not None and self.size_px < MULTIPLE_PX:
            raise ConfigError(f"tiles of {self.size_px} px: expected at least {MULTIPLE_PX}")
        if self.mpp is not None and not 0.05 <= self.mpp <= 10:
            raise ConfigError(f"{self.mpp:g} µm per pixel: expected 0.05 to 10")
        if self.drop_below is not None and not 0 <= self.drop_below <= 1:
            raise ConfigError(f"an agreement of {self.drop_below:g}: expected 0 to 1")


@dataclass(frozen=True)
class PlannedPair:
    """A pair, and where its results belong."""

    part: str
    pair: PairFiles
    he: PurePosixPath
    """From the folder of the results, without ending."""
    ihc: PurePosixPath
    """The same as `he` where one file shows both."""

    @property
    def name(self) -> str:
        """As part/name."""
        return f"{self.part}/{self.pair.name}"


@dataclass(frozen=True)
class PairRow:
    """The result for one pair."""

    name: str
    """As part/name."""
    he: str
    """File, from the folder of the results; empty where the pair is left out."""
    ihc: str
    case: str
    grade: str
    split: str
    verdict: PairVerdict
    why: str
    """Why it is not aligned, or is left out; empty if it is aligned."""
    width_px: int
    height_px: int
    left_px: int
    """Where the results were cut out of the H&E."""
    top_px: int
    residual_um: float
    figures: Figures

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "PairRow":
        """From what `content` gave."""
        numbers: dict[str, Any] = {
            name: math.nan if value is None else value for name, value in content["figures"].items()
        }
        residual = content["residual_um"]
        return cls(
            **{
                **content,
                "residual_um": math.nan if residual is None else residual,
                "figures": Figures(**numbers),
            }
        )

    def content(self) -> dict[str, Any]:
        """As JSON has it: rounded, None for what is not finite."""
        content = {name: _plain(value) for name, value in asdict(self).items() if name != "figures"}
        return {**content, "figures": {name: _plain(value) for name, value in asdict(self.figures).items()}}

    def cells(self) -> dict[str, object]:
        """By column of a table, those that training reads first."""
        content = self.content()
        figures = content.pop("figures")
        del content["name"]
        cells = {name: content.pop(name) for name in COLUMNS} | content | figures
        return {name: "" if value is None else value for name, value in cells.items()}


def plan(root: Path) -> list[PlannedPair]:
    """Every pair of a data set and where its results belong, part by part.

    Raises:
        MissingError, InputError: as in `find_layout` and `pair_files`.
    """
    layout = find_layout(root)
    places = []
    for part in layout.parts:
        for pair in layout.pairs(part):
            if part in layout.folders:
                above = [PurePosixPath(folder.relative_to(layout.root).as_posix()) for folder in layout.folders[part]]
                he, ihc = above[0] / pair.he.stem, above[1] / pair.ihc.stem
            else:
                split = PurePosixPath("" if part == WHOLE else part)
                he, ihc = split / "he" / pair.name, split / "ihc" / pair.name
                if pair.he == pair.ihc:  # one file shows both
                    he = ihc = split / "both" / pair.name
            places.append(PlannedPair(part, pair, he, ihc))
    return places


def align_pair(place: PlannedPair, out: Path, settings: AlignSettings) -> PairRow:
    """Align one pair and write its files, as PNG; one that is kept as it was is copied.

    An IHC in register that lies beside the data set, as in `valB_aligned`, is cropped alike.

    Args:
        place: the pair.
        out: folder of the results.
        settings: how.

    Raises:
        MissingError, InputError: it cannot be read, or its sides differ in size.
        OutputError: it cannot be written.
    """
    place.pair.size()
    he, ihc = place.pair.load()
    try:
        found = align_tile(to_tensor(he), to_tensor(ihc), settings.bars)
    except InputError as error:  # too small
        return _kept(place, out, settings, (he, ihc), Figures(), str(error))
    if found.why_not:
        return _kept(place, out, settings, (he, ihc), found.figures, found.why_not)
    if settings.drop_below is not None and found.figures.agreement < settings.drop_below:
        why = f"the best turn and shift correlate by {found.figures.agreement:.2f}, below {settings.drop_below:g}"
        return _row(place, settings, "left out", found.figures, why=why)
    warped, covered = warp(ihc, found.box, places_on(found.field, found.box))
    window = _window(covered, settings.size_px, square=place.he == place.ihc)
    if window is None:
        side = settings.size_px or round(LEAST_SIDE * min(covered.shape))
        return _row(place, settings, "left out", found.figures, why=f"both sides share no area {side} px wide and high")
    files = _write(place, out, (he, warped), window)
    return _row(place, settings, "aligned", found.figures, window=window, files=files)


def _kept(
    place: PlannedPair, out: Path, settings: AlignSettings, sides: tuple[RGB, RGB], figures: Figures, why: str
) -> PairRow:
    """A pair that is not aligned: copied, or cut in the middle where all have one size, or left out."""
    if settings.drop_below is not None:
        return _row(place, settings, "left out", figures, why=why)
    height, width = sides[0].shape[:2]
    if settings.size_px is None:
        he = place.he.with_name(f"{place.he.name}{place.pair.he.suffix}")
        ihc = place.ihc.with_name(f"{place.ihc.name}{place.pair.ihc.suffix}")
        _copy(place.pair.he, out / he)
        _copy(place.pair.ihc, out / ihc)
        if judge := place.pair.in_register():
            _copy(judge.ihc, out / _in_register(ihc))
        return _row(place, settings, "kept", figures, why=why, window=(0, 0, width, height), files=(str(he), str(ihc)))
    window = middle_square(width, height, settings.size_px)
    if window is None:
        return _row(place, settings, "left out", figures, why=f"{why}; the tile has no {settings.size_px} px")
    files = _write(place, out, sides, window)
    return _row(place, settings, "kept", figures, why=why, window=window, files=files)


def _window(covered: NDArray[np.bool_], size_px: int | None, *, square: bool) -> Crop | None:
    """What is cut out of an aligned pair; None where too little is covered."""
    if size_px is not None:
        return square_nearest_middle(covered, size_px)
    left, top, width, height = shared_rectangle(covered, MULTIPLE_PX)
    if min(width, height) < LEAST_SIDE * min(covered.shape):
        return None
    if square and (inside := middle_square(width, height, min(width, height))):
        return left + inside[0], top + inside[1], inside[2], inside[3]
    return left, top, width, height


def _write(place: PlannedPair, out: Path, sides: tuple[RGB, RGB], window: Crop) -> tuple[str, str]:
    """Write both sides cut to a window; their files, from the folder of the results."""
    left, top, width, height = window
    cut = np.s_[top : top + height, left : left + width]
    he, ihc = (path.with_name(f"{path.name}.png") for path in (place.he, place.ihc))
    if he == ihc:
        save_image(out / he, np.concatenate([sides[0][cut], sides[1][cut]], axis=1))
    else:
        save_image(out / he, sides[0][cut])
        save_image(out / ihc, sides[1][cut])
    if judge := place.pair.in_register():
        save_image(out / _in_register(ihc), load_image(judge.ihc)[cut])
    return str(he), str(ihc)


def _in_register(ihc: PurePosixPath) -> PurePosixPath:
    """Where `PairFiles.in_register` looks."""
    return ihc.parent.with_name(f"{ihc.parent.name}_aligned") / ihc.name


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _row(
    place: PlannedPair,
    settings: AlignSettings,
    verdict: PairVerdict,
    figures: Figures,
    *,
    why: str = "",
    window: Crop = (0, 0, 0, 0),
    files: tuple[str, str] = ("", ""),
) -> PairRow:
    pair = place.pair
    return PairRow(
        name=place.name,
        he=files[0],
        ihc=files[1],
        case=pair.case or "",
        grade="" if pair.grade is None else GRADES[pair.grade],
        split="" if place.part == WHOLE else place.part,
        verdict=verdict,
        why=why,
        width_px=window[2],
        height_px=window[3],
        left_px=window[0],
        top_px=window[1],
        residual_um=figures.residual_px * settings.mpp if settings.mpp else math.nan,
        figures=figures,
    )


def _plain(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else None
