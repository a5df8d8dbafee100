"""Scores that pathologists give to a region, from its number of cells of each intensity.

`counts` are the cells that are negative, 1+, 2+ and 3+. Every score is NaN without cells.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

Counts = Sequence[int]


class Allred(NamedTuple):
    """An Allred score and its two parts."""

    proportion: int
    """0 to 5."""
    intensity: int
    """0 to 3."""

    @property
    def total(self) -> int:
        """0, or 2 to 8."""
        return self.proportion + self.intensity


def positive_fraction(counts: Counts, least: int = 1) -> float:
    """Share of the cells with at least this intensity, 0 to 1."""
    return sum(counts[least:]) / sum(counts) if sum(counts) else math.nan


def h_score(counts: Counts) -> float:
    """Sum of percentages weighted by intensity, 1·(1+) + 2·(2+) + 3·(3+), 0 to 300 (McCarty et al. 1985)."""
    total = sum(counts)
    return 100 * sum(intensity * count for intensity, count in enumerate(counts)) / total if total else math.nan


def allred(counts: Counts) -> Allred | None:
    """Score of proportion plus score of intensity (Allred et al. 1998, Harvey et al. 1999); None without cells.

    Proportion: 0 for none, 1 below 1/100, 2 up to 1/10, 3 up to 1/3, 4 up to 2/3, 5 above. Intensity: the mean of the
    positive cells, rounded, half up.
    """
    total, positive = sum(counts), sum(counts[1:])
    if not total:
        return None
    if not positive:
        return Allred(0, 0)
    share = positive / total
    proportion = 1 if share < 1 / 100 else 2 + sum(share > limit for limit in (1 / 10, 1 / 3, 2 / 3))
    mean = sum(intensity * count for intensity, count in enumerate(counts)) / positive
    return Allred(proportion, math.floor(mean + 0.5))


def ki67_index(counts: Counts) -> float:
    """Percentage of cells with any nuclear stain, 0 to 100 (International Ki67 Working Group, Nielsen et al. 2021).

    The guideline counts invasive tumour cells only. Here every nucleus of the region counts, so select a region of
    tumour.
    """
    return 100 * positive_fraction(counts)


def her2_score(counts: Counts) -> int | None:
    """0 to 3 as ASCO/CAP 2018 (Wolff et al.) score HER2, from cells classed by their membrane; None without cells.

    3+: complete, intense staining in more than 10 % of the cells. 2+: complete staining in more than 10 %. 1+: any
    staining in more than 10 %. 0: less. The guideline counts invasive tumour cells; its other patterns of 2+ are not
    distinguished. It is not a diagnosis.
    """
    if not sum(counts):
        return None
    return max((score for score in (1, 2, 3) if positive_fraction(counts, least=score) > 0.1), default=0)
