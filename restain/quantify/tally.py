"""Counts and sums of a tile or region. Tallies add up: the tally of a slide is the sum over its tiles."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from restain.quantify.cells import CLASSES, Cells
from restain.quantify.density import Float32s
from restain.quantify.scores import allred, h_score, her2_score, ki67_index, positive_fraction
from restain.stains import POSITIVE_DENSITY, Marker

LEAST_POSITIVE: dict[Marker, int] = {"nuclear": 1, "membrane": 2}
"""Least intensity of a positive cell: any nuclear stain; a complete membrane."""


@dataclass(frozen=True)
class Tally:
    """Counts and sums. Densities are optical densities of DAB."""

    area_um2: float = 0.0
    dab_sum: float = 0.0
    """Density times area, µm²."""
    positive_um2: float = 0.0
    """Area that is denser than `POSITIVE_DENSITY`."""
    positive_dab_sum: float = 0.0
    """Density times area over that area, µm²."""
    counts: tuple[int, ...] = (0,) * len(CLASSES)
    """Cells by intensity 0 to 3."""

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.area_um2 + other.area_um2,
            self.dab_sum + other.dab_sum,
            self.positive_um2 + other.positive_um2,
            self.positive_dab_sum + other.positive_dab_sum,
            tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
        )

    @property
    def cells(self) -> int:
        """Number of cells."""
        return sum(self.counts)

    def row(self, marker: Marker) -> dict[str, float | int | None]:
        """Every figure by name; None if it is undefined, or does not apply to the marker."""
        nuclear = marker == "nuclear"
        points = allred(self.counts) if nuclear else None
        return {
            "area_mm2": self.area_um2 / 1e6,
            "cells": self.cells,
            "negative": self.counts[0],
            **{f"intensity_{level}": self.counts[level] for level in (1, 2, 3)},
            "positive_fraction": _known(positive_fraction(self.counts, LEAST_POSITIVE[marker])),
            "h_score": _known(h_score(self.counts)),
            "ki67_index": _known(ki67_index(self.counts)) if nuclear else None,
            "allred": points.total if points else None,
            "allred_proportion": points.proportion if points else None,
            "allred_intensity": points.intensity if points else None,
            "her2_score": None if nuclear else her2_score(self.counts),
            "dab_integrated_um2": self.dab_sum,
            "dab_mean": _known(_ratio(self.dab_sum, self.area_um2)),
            "positive_area_fraction": _known(_ratio(self.positive_um2, self.area_um2)),
            "dab_mean_positive": _known(_ratio(self.positive_dab_sum, self.positive_um2)),
        }


def tally(dab: Float32s, cells: Cells, mpp: float, where: NDArray[np.bool_] | None = None) -> Tally:
    """Count an image's cells and add up its DAB.

    Args:
        dab: its optical density, H x W.
        cells: the cells to count.
        mpp: µm per pixel.
        where: pixels whose DAB counts, H x W; all if not given.
    """
    chosen = dab if where is None else dab[where]
    positive = chosen[chosen > POSITIVE_DENSITY]
    pixel = mpp**2
    return Tally(
        chosen.size * pixel,
        float(chosen.sum(dtype=np.float64)) * pixel,
        positive.size * pixel,
        float(positive.sum(dtype=np.float64)) * pixel,
        tuple(np.bincount(cells.intensity, minlength=len(CLASSES)).tolist()),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
