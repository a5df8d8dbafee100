"""The demo's result as one HTML page that needs no other file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from restain.demo.figures import Curve, draw_arrows, draw_curves
from restain.demo.stages import Stage
from restain.metrics import Evaluation, difference, tabulate
from restain.metrics.comparison import Verdict, verdict, words
from restain.metrics.displacement import Recovery
from restain.metrics.page import render_page
from restain.metrics.plots import COLOURS


@dataclass(frozen=True)
class Example:
    """One held-out tile in every version."""

    name: str
    caption: str
    images: Mapping[str, NDArray[np.uint8]]
    """Column -> H x W x 3 RGB; the same columns in every example, the H&E first."""


@dataclass(frozen=True)
class Content:
    """Everything on the page."""

    examples: Sequence[Example]
    evaluations: Mapping[str, Evaluation]
    """Two methods by name, measured on the same tiles: the baseline first."""
    curves: Mapping[str, Mapping[str, Curve]]
    """Method -> loss -> (step, value), methods in the same order."""
    recovery: Recovery
    """Of all held-out tiles, in the order of the evaluations' names; the first example's is drawn."""
    stages: Sequence[Stage]
    facts: Mapping[str, str]
    """Versions, seeds, sizes: by name."""
    recipes: Mapping[str, str]
    """Method -> its recipe, TOML."""


HEADLINES = ("positive_dice", "dab_r", "ssim_rgb")
"""Metrics that the page opens with."""


@dataclass(frozen=True)
class Headline:
    """One metric in large letters."""

    label: str
    values: Mapping[str, str]
    difference: str
    verdict: Verdict


def write_page(path: Path, content: Content) -> None:
    """Render the page and write it in one piece.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    columns = list(content.examples[0].images)
    table = tabulate(content.evaluations)
    baseline, guided = content.evaluations.values()
    verdicts = [verdict(name, baseline, guided) for name in guided.figures]
    drawn = content.examples[0]
    place, recovery = guided.names.index(drawn.name), content.recovery
    fields = {
        "Where the alignment sends each region": recovery.found[place],
        "Where its tissue truly lies": recovery.truth[place],
    }
    render_page(
        path,
        "demo/page.html",
        content=content,
        columns=columns,
        colours=dict(zip(content.evaluations, COLOURS, strict=False)),
        headlines=[_headline(name, content.evaluations) for name in HEADLINES],
        tiles=len(guided.names),
        table=table,
        rows=list(zip(table.rows, verdicts, strict=True)),
        curves=draw_curves(content.curves),
        arrows=draw_arrows(drawn.images[columns[0]], fields, recovery.inside[place]),
        aligned_px=recovery.aligned_px.median().item(),
        identity_px=recovery.identity_px.median().item(),
        regions=len(recovery.aligned_px),
        seconds=sum(stage.seconds for stage in content.stages),
    )


def _headline(name: str, evaluations: Mapping[str, Evaluation]) -> Headline:
    first, second = evaluations.values()
    values = {method: f"{evaluation.figures[name].value:.3f}" for method, evaluation in evaluations.items()}
    return Headline(
        second.figures[name].label, values, words(difference(name, first, second)), verdict(name, first, second)
    )
