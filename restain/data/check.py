"""Checks a paired data set for problems that would spoil training or evaluation."""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from restain.data.cases import cases_by_list
from restain.data.layouts import find_layout
from restain.data.misalignment import BLOCK_PX, SCALES, WORK_PX, Misalignment, can_be_matched, misalignment
from restain.data.overlaps import find_overlaps, thumbnail
from restain.data.partners import PairFiles
from restain.image import atomic_path, to_tensor
from restain.stains import optical_density, to_unit

ProblemKind = Literal["case on both sides", "same tissue", "blur", "stains swapped", "scale", "misaligned"]
PROBLEM_KINDS: tuple[ProblemKind, ...] = (
    "case on both sides",
    "same tissue",
    "stains swapped",
    "scale",
    "blur",
    "misaligned",
)
"""Kinds of problems, the most serious first."""

BLURRED = 1 / 3
"""A tile is blurred if its finest detail, relative to the next coarser, is below this share of the median tile's."""
TISSUE_DENSITY = 0.3
"""Least optical density of tissue, summed over the colours."""
SWAPPED = 0.05
"""Margin by which the IHC must be pinker than the H&E to be reported. On real tiles the H&E was pinker by 0.18 in the
median; without DAB, the IHC was by up to 0.02."""
SCALE_MARGIN = 1.15
"""Factor by which another scale must fit better, in the median of all pairs, to be reported."""
FAR = 0.1
"""A pair is misaligned if its displacement exceeds this share of the tile's side: no loss can look that far."""


@dataclass(frozen=True)
class PairFacts:
    """Measurements of one pair."""

    part: str
    name: str
    he_sharpness: float
    """Strength of the finest detail relative to the next coarser."""
    ihc_sharpness: float
    pink_margin: float
    """How much pinker the H&E is than the IHC; negative where the stains are swapped."""
    side_px: int
    misalignment: Misalignment


@dataclass(frozen=True)
class Problem:
    """A problem of some tiles."""

    kind: ProblemKind
    tiles: tuple[str, ...]
    """As part/name."""
    words: str
    grave: bool
    """Whether it would make results wrong, not just worse."""

    @property
    def shown(self) -> tuple[str, ...]:
        """The first tile and, for problems of two tiles, the first one of another part, or else the next."""
        first, *others = self.tiles
        part = first.partition("/")[0]
        elsewhere = [tile for tile in others if tile.partition("/")[0] != part]
        return first, *(elsewhere or others)[:1]


@dataclass(frozen=True)
class Findings:
    """The result of `check`."""

    root: Path
    layout: str
    facts: Sequence[PairFacts]
    problems: Sequence[Problem]
    notes: Sequence[str]
    """What could not be checked."""

    @property
    def median_misalignment_px(self) -> float:
        """Over the pairs that could be matched; NaN if none could."""
        return statistics.median([fact.misalignment.median_px for fact in self.matched] or [math.nan])

    @property
    def matched(self) -> list[PairFacts]:
        """The pairs with enough in common to measure their displacement."""
        return [fact for fact in self.facts if math.isfinite(fact.misalignment.median_px)]

    def save(self, path: Path) -> None:
        """Write everything as JSON; values that are not finite become null.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
        """
        content = {
            "root": str(self.root),
            "layout": self.layout,
            "pairs": len(self.facts),
            "median_misalignment_px": self.median_misalignment_px,
            "problems": [asdict(problem) for problem in self.problems],
            "notes": list(self.notes),
            "facts": [asdict(fact) for fact in self.facts],
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(_finite(content), indent=1, ensure_ascii=False), encoding="utf-8")


def check(
    root: Path,
    cases: Callable[[str], str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Findings:
    """Check every pair of every part of a data set; each image is decoded once.

    Args:
        root: the data set's folder, in any of `restain.data.layouts.LAYOUTS`.
        cases: from a tile's name to its case (a patient, a slide); without it, names shared by two parts are reported.
        on_progress: called after each pair with pairs done and pairs in all.

    Raises:
        MissingError, InputError: as in `find_layout` and `Layout.pairs`, or an image cannot be read.
    """
    layout = find_layout(root)
    parts = {part: layout.pairs(part) for part in layout.parts}
    files = [(part, pair) for part, pairs in parts.items() for pair in pairs]
    facts, thumbnails, too_small = [], [], 0
    for done, (part, pair) in enumerate(files, start=1):
        too_small += not can_be_matched(*pair.size())
        he, ihc = pair.load()
        facts.append(_measure(part, pair, he, ihc))
        thumbnails.append(thumbnail(he))
        if on_progress:
            on_progress(done, len(files))
    names = {part: [pair.name for pair in pairs] for part, pairs in parts.items()}
    cases = cases or cases_by_list([pair for _, pair in files])
    problems = [
        *_shared_cases(names, cases),
        *sorted(_same_tissue(facts, thumbnails), key=lambda problem: not problem.grave),
        *_swapped(facts),
        *_wrong_scale(facts),
        *_blurred(facts),
        *_misaligned(facts),
    ]
    notes = []
    if cases is None and len(parts) > 1:
        notes.append("Cases: unknown; give the regular expression that finds the case in a name (cases).")
    found = Findings(root, layout.name, facts, problems, notes)
    if too_small:
        notes.append(
            f"{too_small} of {len(facts)} pairs are too small to measure their displacement: the shorter side must have"
            f" {BLOCK_PX} px, and {BLOCK_PX / WORK_PX:.0%} of the longer one. Cut larger tiles, or align the"
            " pairs: that measures smaller ones, too."
        )
    if unmatched := len(facts) - len(found.matched) - too_small:
        notes.append(f"{unmatched} of {len(facts)} pairs have too little in common to measure their displacement.")
    return found


def sharpness(rgb: NDArray[np.uint8]) -> float:
    """Strength of detail of about 1 px relative to about 2 px: H x W x 3 to a number, 0 for a uniform image."""
    grey = rgb.mean(axis=2, dtype=np.float32)
    blurred, more = gaussian_filter(grey, 1), gaussian_filter(grey, 2)
    coarse = float(np.square(blurred - more).mean())
    return float(np.square(grey - blurred).mean()) / coarse if coarse > 0 else 0.0


def pinkness(images: Tensor) -> float:
    """Difference of green and blue absorption of the tissue, relative to all: positive for eosin, negative for DAB.

    Args:
        images: 1 x 3 x H x W in [-1, 1].

    Returns:
        About 0.75 for eosin alone, 0.25 for haematoxylin, -0.13 for DAB; 0 without tissue.
    """
    density = optical_density(to_unit(images))
    total = density.sum(1)
    tissue = total > TISSUE_DENSITY
    share = ((density[:, 1] - density[:, 2]) * tissue).sum() / (total * tissue).sum()
    return share.nan_to_num(0).item()


def _measure(part: str, pair: PairFiles, he: NDArray[np.uint8], ihc: NDArray[np.uint8]) -> PairFacts:
    first, second = to_tensor(he), to_tensor(ihc)
    margin = pinkness(first) - pinkness(second)
    moved = misalignment(first, second)
    return PairFacts(part, pair.name, sharpness(he), sharpness(ihc), margin, max(he.shape[:2]), moved)


def _shared_cases(names: Mapping[str, Sequence[str]], cases: Callable[[str], str] | None) -> Iterator[Problem]:
    parts_of: dict[str, dict[str, list[str]]] = {}
    for part, tiles in names.items():
        for name in tiles:
            parts_of.setdefault(cases(name) if cases else name, {}).setdefault(part, []).append(f"{part}/{name}")
    for case, tiles_by_part in parts_of.items():
        if len(tiles_by_part) > 1:
            found = " and ".join(f"{len(tiles)} in {part}" for part, tiles in tiles_by_part.items())
            tiles_of_case = tuple(tile for tiles in tiles_by_part.values() for tile in tiles)
            yield Problem("case on both sides", tiles_of_case, f"{case}: {found}", grave=True)


def _same_tissue(facts: Sequence[PairFacts], thumbnails: Sequence[Tensor]) -> Iterator[Problem]:
    for overlap in find_overlaps(thumbnails):
        first, second = facts[overlap.first], facts[overlap.second]
        turned = ", turned or mirrored" if overlap.turned else ""
        words = f"{overlap.share:.0%} of the H&E is shared{turned}, correlation {overlap.correlation:.2f}"
        across = first.part != second.part
        yield Problem("same tissue", (_tile(first), _tile(second)), words, grave=across)


def _swapped(facts: Sequence[PairFacts]) -> Iterator[Problem]:
    for fact in facts:
        if fact.pink_margin < -SWAPPED:
            words = f"the IHC is pinker than the H&E by {-fact.pink_margin:.2f}"
            yield Problem("stains swapped", (_tile(fact),), words, grave=True)


def _wrong_scale(facts: Sequence[PairFacts]) -> Iterator[Problem]:
    """One problem for a whole part, since a single pair is not conclusive."""
    for part in dict.fromkeys(fact.part for fact in facts):
        members = [fact for fact in facts if fact.part == part]
        qualities = torch.tensor([fact.misalignment.scale_quality for fact in members]).median(0).values
        best = int(qualities.argmax())
        if SCALES[best] != 1 and qualities[best] > SCALE_MARGIN * qualities[SCALES.index(1.0)]:
            change = "shrink" if SCALES[best] > 1 else "enlarge"
            words = f"the IHC of {part} is at {SCALES[best]:g} times the scale of the H&E; {change} it to match"
            yield Problem("scale", tuple(_tile(fact) for fact in members[:1]), words, grave=True)


def _blurred(facts: Sequence[PairFacts]) -> Iterator[Problem]:
    for side, values in (
        ("H&E", [fact.he_sharpness for fact in facts]),
        ("IHC", [fact.ihc_sharpness for fact in facts]),
    ):
        middle = statistics.median(values)
        for fact, value in zip(facts, values, strict=True):
            if value < BLURRED * middle:
                words = f"the {side}'s sharpness is {value:.2f}, the median {middle:.2f}"
                yield Problem("blur", (_tile(fact),), words, grave=False)


def _misaligned(facts: Sequence[PairFacts]) -> Iterator[Problem]:
    for fact in sorted(facts, key=lambda fact: -fact.misalignment.median_px):
        distance = fact.misalignment.median_px
        if distance > FAR * fact.side_px:
            words = f"about {distance:.0f} px, {distance / fact.side_px:.0%} of a side"
            yield Problem("misaligned", (_tile(fact),), words, grave=False)


def _tile(fact: PairFacts) -> str:
    return f"{fact.part}/{fact.name}"


def _finite(value: object) -> object:
    """The same content, with null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
