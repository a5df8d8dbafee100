"""The report: one self-contained HTML page for pathologists, on screen or on paper."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import matplotlib as mpl
import numpy as np
import torch
from numpy.typing import NDArray

from restain.image import load_image, to_tensor
from restain.metrics.comparison import CAUTION, PIXELWISE, notes, tabulate, tiles_in_words, verdict, words
from restain.metrics.evaluation import Evaluation
from restain.metrics.page import render_page
from restain.metrics.plots import COLOURS, draw_agreement
from restain.metrics.tiles import PARTNERS
from restain.metrics.trust import unlike_shares
from restain.stains import STAIN_VECTORS, dab_density, to_unit, vectors_in_words, with_reference_stains

HEADLINES = ("fid", "positive_cells_error", "dab_r", "positive_dice", "dab_error", "ssim_rgb", "psnr")
"""Candidates for the headline figures; the first four available are shown."""
EXAMPLES_EACH = 2
"""Tiles shown from the best, the middle and the worst."""
FULL_DIFFERENCE = 0.6
"""Difference of DAB density at which its colour saturates."""
TRUST = "Trust"
"""Title of the column of trust maps."""
QUANTITIES = {
    "dab": ("DAB density, OD", "Amount of stain: integrated DAB optical density per pixel"),
    "positive_share": ("positive share", "Share of the area that is DAB-positive"),
    "positive_cells": ("positive cells, %", "Share of the cells that are positive"),
    "h_score": ("H-score", "H-score"),
}
"""Quantities plotted tile by tile, by column: label of the axes and title of the plot."""


@dataclass(frozen=True)
class ExampleTile:
    """One tile in every version."""

    name: str
    rank: str
    caption: str
    images: Mapping[str, NDArray[np.uint8]]


@dataclass(frozen=True)
class HeadlineFigure:
    """One headline figure."""

    label: str
    values: Sequence[tuple[str, str, str]]
    """Method, value, interval."""
    tiles: str
    """Number of tiles with a value."""


def write_report(
    path: Path, evaluations: Mapping[str, Evaluation], facts: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write the report on one method or on several that were measured in the same way.

    Figures that need registered images get no verdict, because registration is unknown here.

    Args:
        path: of the page.
        evaluations: by the name of the method. Images of the tiles that are shown are read again.
        facts: further lines of the provenance, such as the origin of the cases.

    Raises:
        InputError: two figures have different protocols.
        OutputError: the file cannot be written; nothing is left behind.
    """
    first = next(iter(evaluations.values()))
    table = tabulate(evaluations)
    pair = "Difference" in table.header
    judged = {name for name in first.figures if pair and name not in PIXELWISE}
    verdicts = [verdict(name, *evaluations.values()) if name in judged else "unclear" for name in first.figures]
    examples = {name: _examples(found) for name, found in evaluations.items()}
    render_page(
        path,
        "metrics/report.html",
        evaluations=evaluations,
        first=first,
        tiles=len(first.names),
        colours=dict(zip(evaluations, COLOURS * len(evaluations), strict=False)),
        headlines=_headlines(evaluations),
        table=table,
        rows=list(zip(table.rows, verdicts, strict=True)),
        caution=CAUTION,
        notes=notes(evaluations),
        plots=_plots(evaluations),
        examples=examples,
        trusted=any(TRUST in shown[0].images for shown in examples.values()),
        unlike=_unlike(evaluations),
        facts=_facts(first, facts),
        threshold=FULL_DIFFERENCE,
    )


def dab_difference(
    virtual: NDArray[np.uint8], real: NDArray[np.uint8], stain_vectors: torch.Tensor | None = None
) -> NDArray[np.uint8]:
    """Difference of DAB: brown where the virtual image has more than the real one, blue where less, white where equal.

    H x W x 3 each; smoothed over about 8 px, since cells are displaced on a neighbouring section.
    """
    vectors = STAIN_VECTORS if stain_vectors is None else stain_vectors
    both = (with_reference_stains(to_unit(to_tensor(rgb)), vectors) for rgb in (virtual, real))
    gap = torch.sub(*map(dab_density, both))
    smooth = torch.nn.functional.avg_pool2d(gap, 9, 1, 4, count_include_pad=False)[0, 0]
    colours = mpl.colormaps["PuOr_r"]((smooth / FULL_DIFFERENCE / 2 + 0.5).clamp(0, 1).numpy(), bytes=True)
    return np.ascontiguousarray(colours[..., :3])


def _headlines(evaluations: Mapping[str, Evaluation]) -> list[HeadlineFigure]:
    first = next(iter(evaluations.values()))
    chosen = [name for name in HEADLINES if name in first.figures][:4]
    headlines = []
    for name in chosen:
        parts = {method: words(found.figures[name]).partition(" ") for method, found in evaluations.items()}
        figure = first.figures[name]
        label = figure.label + (f", {figure.unit}" if figure.unit else "")
        values = [(method, value, rest) for method, (value, _, rest) in parts.items()]
        tiles = tiles_in_words([found.figures[name] for found in evaluations.values()])
        headlines.append(HeadlineFigure(label, values, tiles))
    return headlines


def _plots(evaluations: Mapping[str, Evaluation]) -> dict[str, dict[str, str]]:
    """For each measured quantity of `QUANTITIES`, by caption: the plot of each method."""
    plots: dict[str, dict[str, str]] = {}
    for place, (method, found) in enumerate(evaluations.items()):
        colour = COLOURS[place % len(COLOURS)]
        for name, (virtual, real) in _tile_values(found).items():
            quantity, caption = QUANTITIES[name]
            plots.setdefault(caption, {})[method] = draw_agreement(virtual, real, quantity, colour)
    return plots


def _tile_values(found: Evaluation) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Virtual and real values by the names of `QUANTITIES`, without tiles where either is undefined."""
    columns = dict(found.columns)
    if "positive_real_px" in columns:
        areas_px = torch.tensor([math.prod(tile.size) for tile in found.tiles])
        for side in ("virtual", "real"):
            columns[f"positive_share_{side}"] = columns[f"positive_{side}_px"] / areas_px
    values = {}
    for name in QUANTITIES:
        if f"{name}_real" in columns:
            pairs = torch.stack([columns[f"{name}_virtual"], columns[f"{name}_real"]])
            virtual, real = pairs[:, pairs.isfinite().all(0)].numpy()
            if len(real):
                values[name] = virtual, real
    return values


def _examples(found: Evaluation) -> list[ExampleTile]:
    """The best, middle and worst tiles by the amount of stain."""
    tiles = found.tiles
    errors = (found.columns["dab_virtual"] - found.columns["dab_real"]).abs()
    order = errors.argsort(stable=True).tolist()
    middle = len(order) // 2
    ranks = dict.fromkeys(order[-EXAMPLES_EACH:], "worst")
    ranks |= dict.fromkeys(order[max(0, middle - EXAMPLES_EACH // 2) :][:EXAMPLES_EACH], "median")
    ranks |= dict.fromkeys(order[:EXAMPLES_EACH], "best")
    trusted = all(tiles[index].trust.is_file() for index in ranks)
    examples = []
    for index in (place for rank in ("best", "median", "worst") for place in order if ranks.get(place) == rank):
        tile = tiles[index]
        virtual, real = load_image(tile.virtual), load_image(tile.real)
        he = {"H&E": load_image(tile.he)} if tile.he else {}
        stained, truth = (found.columns[column][index] for column in ("dab_virtual", "dab_real"))
        caption = f"DAB density {stained:.3f} virtual, {truth:.3f} real"
        images = {
            **he,
            "Real": real,
            "Virtual": virtual,
            "DAB difference": dab_difference(virtual, real, found.stain_vectors),
        }
        if trusted:
            images[TRUST] = load_image(tile.trust)
        examples.append(ExampleTile(tile.name, ranks[index], caption, images))
    return examples


def _unlike(evaluations: Mapping[str, Evaluation]) -> dict[str, str]:
    """Share of H&E blocks unlike the training data, by method, if recorded."""
    shares = {method: unlike_shares(found.virtual, found.names) for method, found in evaluations.items()}
    return {
        method: f"{100 * sum(own) / len(own):.1f} % of the blocks, mean over N = {len(own)}"
        for method, own in shares.items()
        if own
    }


def _facts(first: Evaluation, further: Mapping[str, str]) -> dict[str, str]:
    protocol = next(iter(first.figures.values())).protocol
    return {
        "Real images": f"{first.real} ({protocol[PARTNERS['real']]})",
        **({"H&E images": str(first.he)} if first.he else {}),
        "Tiles": f"{protocol['tiles']} of {protocol['size']}, {protocol['format']}",
        **({} if first.stain_vectors is None else {"Stain vectors": vectors_in_words(first.stain_vectors)}),
        "Intervals": str(protocol["interval"]),
        **further,
        "Made by": f"restain {version('restain')}, torch {torch.__version__}",
        "On": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }
