"""Metrics that count cells; they need the resolution, and where DAB lies on positive cells."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from restain.image import to_uint8
from restain.metrics.agreement import agreement_width, bias, correlation, mean_error
from restain.metrics.registry import Metric
from restain.metrics.structure import f1, matched_nuclei
from restain.quantify import QuantifySettings, quantify_image
from restain.quantify.cells import COMPLETE, INCOMPLETE, MEMBRANE_UM, NUCLEAR_LIMITS, SECTORS, STRONG_MEMBRANE
from restain.quantify.scores import Counts, allred, h_score, her2_score, ki67_index, positive_fraction
from restain.quantify.tally import LEAST_POSITIVE
from restain.quantify.tiles import fit_mpp
from restain.stains import POSITIVE_DENSITY, Marker, from_unit


@dataclass(frozen=True)
class Score:
    """A score that a pathologist would give to a tile."""

    label: str
    of: Callable[[Counts], float]
    """From the number of cells of each intensity; NaN without cells."""
    unit: str = ""


def _allred(counts: Counts) -> float:
    points = allred(counts)
    return points.total if points else math.nan


def _her2(counts: Counts) -> float:
    score = her2_score(counts)
    return math.nan if score is None else score


def _complete(counts: Counts) -> float:
    return 100 * positive_fraction(counts, LEAST_POSITIVE["membrane"])


SCORES: Mapping[Marker, Mapping[str, Score]] = {
    "nuclear": {
        "positive_cells": Score("Positive nuclei (Ki67 index)", ki67_index, "%"),
        "h_score": Score("H-score", h_score),
        "allred": Score("Allred score", _allred),
    },
    "membrane": {
        "positive_cells": Score("Positive cells (complete membrane)", _complete, "%"),
        "h_score": Score("H-score", h_score),
        "her2": Score("HER2-like score", _her2),
    },
}
"""By marker and name; a tile's values are the columns `NAME_virtual` and `NAME_real`."""

_CLASSES: Mapping[Marker, str] = {
    "nuclear": "1+, 2+ and 3+ from {:g}, {:g} and {:g} OD".format(*NUCLEAR_LIMITS),
    "membrane": (
        f"stained from {POSITIVE_DENSITY:g} OD within {MEMBRANE_UM:g} µm, 1+ from {INCOMPLETE:.0%} of {SECTORS}"
        f" directions, 2+ from {COMPLETE:.0%}, 3+ from {STRONG_MEMBRANE:g} OD too"
    ),
}
"""How cells are classified, for the protocol."""

_SHARED = ("nuclei_shared", "nuclei_virtual", "nuclei_he")
_FIGURES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor], bool | None]] = {
    "error": ("mean error", mean_error, False),
    "bias": ("bias", bias, None),
    "limits": ("limits of agreement, bias ±", agreement_width, False),
    "r": ("Pearson R", correlation, True),
}


def nuclei_metrics(settings: QuantifySettings) -> dict[str, Metric]:
    """The `SCORES` against the real IHC, and nuclei shared with the H&E, for `evaluate`.

    As in `restain quantify`, images much finer than 0.5 µm per pixel are measured at 0.5, unless another segmenter is
    given.

    Args:
        settings: how nuclei are found and cells are classified, with the µm per pixel of the tiles.

    Returns:
        Metrics by name: for each score the mean error, the bias, half the width of the limits of agreement and the
            correlation; F1 of nuclei.
    """
    read = settings if settings.segmenter else replace(settings, mpp=fit_mpp(settings.mpp))
    shrink = settings.mpp / read.mpp
    finding: dict[str, str | float] = {
        "stains": "Ruifrok & Johnston",
        "marker": settings.marker,
        "mpp": settings.mpp,
        "read at": read.mpp,
        "nucleus": f"{settings.nucleus_um:g} µm",
        "nuclei": "own segmenter" if settings.segmenter else "hills of the distance",
    }
    protocol = finding | {"classes": _CLASSES[settings.marker]}
    scores = SCORES[settings.marker]
    measure, shared = partial(_measure, read, shrink), partial(_shared, read, shrink)
    columns = tuple(f"{name}_{side}" for name in scores for side in ("virtual", "real"))
    found = {}
    for place, (name, score) in enumerate(scores.items()):
        for key, (words, figure, higher) in _FIGURES.items():
            found[f"{name}_{key}"] = Metric(
                f"{score.label}, {words}",
                measure,
                columns,
                partial(_of, 2 * place, figure),
                higher,
                unit="" if key == "r" else score.unit,
                protocol=protocol,
            )
    found["nuclei_f1"] = Metric("Nuclei of the H&E, F1", shared, _SHARED, f1, protocol=finding, partner="he")
    return found


def _of(first: int, figure: Callable[[Tensor, Tensor], Tensor], *columns: Tensor) -> Tensor:
    """A figure of two adjacent columns."""
    return figure(columns[first], columns[first + 1])


def _measure(settings: QuantifySettings, shrink: float, virtual: Tensor, real: Tensor) -> Tensor:
    """Each score of virtual and real tiles, N x 2 per score; NaN without nuclei."""
    rows = []
    for pair in zip(_resized(virtual, shrink), _resized(real, shrink), strict=True):
        counts = [quantify_image(rgb, settings).tally().counts for rgb in pair]
        rows.append([score.of(side) for score in SCORES[settings.marker].values() for side in counts])
    return torch.tensor(rows, dtype=torch.float64)


def _shared(settings: QuantifySettings, shrink: float, virtual: Tensor, he: Tensor) -> Tensor:
    """Nuclei common to virtual IHC and H&E, and those of each: N x 3 in the order of `_SHARED`."""
    within = settings.nucleus_um / 2 / settings.mpp
    on_he = settings.without_dab()
    rows = []
    for first, second in zip(_resized(virtual, shrink), _resized(he, shrink), strict=True):
        cells, others = quantify_image(first, settings).cells, quantify_image(second, on_he).cells
        rows.append([matched_nuclei(cells, others, within), len(cells), len(others)])
    return torch.tensor(rows, dtype=torch.float64)


def _resized(images: Tensor, shrink: float) -> NDArray[np.uint8]:
    """N x 3 x H x W in [0, 1] to N x H' x W' x 3, as a slide is read."""
    if shrink != 1:
        size = [max(1, int(length * shrink + 1e-6)) for length in images.shape[-2:]]
        images = F.interpolate(images, size, mode="bicubic", antialias=True)
    return to_uint8(from_unit(images))
