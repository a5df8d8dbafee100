"""The demo's result as one HTML page that needs no other file; written when the first tiles are stained, then again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from restain.demo.figures import Curve, draw_curves
from restain.demo.pictures import Example
from restain.demo.stages import Stage
from restain.image import RGB
from restain.metrics import Evaluation, tabulate
from restain.metrics.page import render_page

HEADLINES = ("positive_dice", "psnr", "haematoxylin_r")
"""Metrics in large letters."""


@dataclass(frozen=True)
class SlidesInRegister:
    """Two slides that were laid on one another."""

    overlay: RGB
    tiles: RGB
    facts: Sequence[str]


@dataclass(frozen=True)
class Content:
    """Everything on the page, as far as it is there."""

    tiles: Sequence[Example]
    """Drawn tiles, stained by the starter weights."""
    real: RGB
    """Real tissue: rows of H&E, virtual stain and truth."""
    own: Example | None = None
    """The user's slide."""
    registered: SlidesInRegister | None = None
    judged: Sequence[Example] = ()
    """A whole slide that nobody has learned from, and a part of it."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    """By column, on the same tiles; the H&E as it is comes first."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """What one can do next -> how."""
    stages: Sequence[Stage] = ()
    under_way: str = ""
    """What is being done; empty when all is done."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Versions, seeds, sizes: by name."""


def write_page(path: Path, content: Content) -> None:
    """Render the page and write it in one piece.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    evaluations = content.evaluations
    table = tabulate(evaluations) if evaluations else None
    first = next(iter(evaluations.values()), None)
    render_page(
        path,
        "demo/page.html",
        content=content,
        table=table,
        rows=[(row, "unclear") for row in table.rows] if table else [],
        headlines={
            first.figures[name].label: {column: f"{one.figures[name].value:.2f}" for column, one in evaluations.items()}
            for name in HEADLINES
        }
        if first
        else {},
        judged_tiles=len(first.names) if first else 0,
        curves=draw_curves(content.curves, "L1 distance to the IHC, images in [-1, 1]") if content.curves else "",
        seconds=sum(stage.seconds for stage in content.stages),
    )
