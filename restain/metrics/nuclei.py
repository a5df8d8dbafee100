"""Metrics that count cells: they need to know how large a pixel is, and where positive cells are brown."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from restain.image import to_uint8
from restain.metrics.agreement import agreement_width, bias, correlation, mean_error
from restain.metrics.structure import matched_nuclei, nuclei_f1
from restain.metrics.table import Metric
from restain.quantify.scores import h_score, positive_fraction
from restain.quantify.tally import LEAST_POSITIVE
from restain.quantify.tiles import Settings, quantify_image
from restain.stains import from_unit

_SCORES = ("positive_nuclei_virtual", "positive_nuclei_real", "h_score_virtual", "h_score_real")
_SHARED = ("nuclei_shared", "nuclei_virtual", "nuclei_he")
_FIGURES: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor], bool]] = {
    "error": ("error", mean_error, False),
    "bias": ("absolute bias", lambda virtual, real: bias(virtual, real).abs(), False),
    "limits": ("limits of agreement ±", agreement_width, False),
    "r": ("Pearson R", correlation, True),
}


def nuclei_metrics(settings: Settings) -> dict[str, Metric]:
    """Positive fraction and H-score against the real IHC, and nuclei shared with the H&E, for `evaluate`.

    Args:
        settings: how nuclei are found and cells are classed.

    Returns:
        Metrics by name: error, absolute bias, limits of agreement and correlation of either score; F1 of nuclei.
    """
    protocol: dict[str, str | float] = {
        "marker": settings.marker,
        "mpp": settings.mpp,
        "nucleus": f"{settings.nucleus_um:g} µm",
        "nuclei": "own segmenter" if settings.segmenter else "hills of the distance",
    }
    scores, shared = partial(_scores, settings), partial(_shared, settings)
    found = {}
    for first, (score, label) in enumerate((("positive_nuclei", "Positive nuclei"), ("h_score", "H-score"))):
        for key, (words, figure, higher) in _FIGURES.items():
            found[f"{score}_{key}"] = Metric(
                f"{label}, {words}", scores, _SCORES, partial(_of, 2 * first, figure), higher, protocol=protocol
            )
    found["nuclei_f1"] = Metric("Nuclei of the H&E, F1", shared, _SHARED, nuclei_f1, protocol=protocol, partner="he")
    return found


def _of(first: int, figure: Callable[[Tensor, Tensor], Tensor], *columns: Tensor) -> Tensor:
    """A figure of two neighbouring columns."""
    return figure(columns[first], columns[first + 1])


def _scores(settings: Settings, virtual: Tensor, real: Tensor) -> Tensor:
    """Positive fraction and H-score of virtual and real tiles: N x 4 in the order of `_SCORES`; nan without nuclei."""
    least = LEAST_POSITIVE[settings.marker]
    rows = []
    for pair in zip(to_uint8(from_unit(virtual)), to_uint8(from_unit(real)), strict=True):
        counts = [quantify_image(rgb, settings).tally().counts for rgb in pair]
        rows.append([*(positive_fraction(part, least) for part in counts), *(h_score(part) for part in counts)])
    return torch.tensor(rows, dtype=torch.float64)


def _shared(settings: Settings, virtual: Tensor, he: Tensor) -> Tensor:
    """Nuclei that virtual IHC and H&E share, and those of each: N x 3 in the order of `_SHARED`."""
    within = settings.nucleus_um / 2 / settings.mpp
    on_he = settings.without_dab()
    rows = []
    for first, second in zip(to_uint8(from_unit(virtual)), to_uint8(from_unit(he)), strict=True):
        cells, others = quantify_image(first, settings).cells, quantify_image(second, on_he).cells
        rows.append([matched_nuclei(cells, others, within), len(cells), len(others)])
    return torch.tensor(rows, dtype=torch.float64)
