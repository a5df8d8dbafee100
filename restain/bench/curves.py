"""Learning curves: the held-out figures that trainings logged (`training.evaluate_every_steps`), over seeds."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from restain.bench.cell import Cell
from restain.bench.table import heading
from restain.errors import OutputError
from restain.metrics.plots import STYLE, svg
from restain.metrics.registry import METRICS
from restain.training.folder import HELD_OUT

_KID = "KID × 1000"
_DASHES = ("-", "--", ":")
_WIDTH, _HEIGHT = 3.6, 3.1  # of a panel, inches


@dataclass(frozen=True)
class LearningCurve:
    """One figure of one row over the steps."""

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    """Over the seeds that were measured at each step."""
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    seeds: tuple[int, ...]
    """How many seeds were measured at each step."""


LearningCurves = Mapping[str, Mapping[str, LearningCurve]]
"""By figure, then by row."""


def read_curves(rows: Sequence[str], cells: Sequence[Cell]) -> LearningCurves:
    """Read the curves of all trainings, finished or not; empty if none was evaluated on the way.

    Raises:
        OutputError: a log is damaged.
    """
    found: dict[str, dict[str, dict[int, list[float]]]] = {}
    for cell in cells:
        for step, figures in _logged(cell).items():
            for name, value in figures.items():
                if value is not None:
                    found.setdefault(name, {}).setdefault(cell.row, {}).setdefault(step, []).append(value)
    return {name: {row: _curve(of_row[row]) for row in rows if row in of_row} for name, of_row in found.items()}


def draw_curves(curves: LearningCurves) -> str:
    """One panel per figure, one line per row with a band from the lowest to the highest seed, as SVG."""
    styles = line_styles([row for of_row in curves.values() for row in of_row])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH * len(curves), _HEIGHT), layout="constrained")
        panels = np.atleast_1d(figure.subplots(1, len(curves)))
        for panel, (name, of_row) in zip(panels, curves.items(), strict=True):
            draw_lines(panel, of_row, styles)
            panel.set(title=_heading(name), xlabel="generator steps")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5))
        return svg(figure)


def line_styles(rows: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Dash and colour of each row, in turn; a row may be named twice."""
    return {
        row: (_DASHES[index // 10 % len(_DASHES)], f"C{index % 10}")  # matplotlib's ten colours
        for index, row in enumerate(dict.fromkeys(rows))
    }


def draw_lines(panel: Axes, of_row: Mapping[str, LearningCurve], styles: Mapping[str, tuple[str, str]]) -> None:
    """One line per row with a band from the lowest to the highest seed."""
    for row, curve in of_row.items():
        dash, colour = styles[row]
        panel.plot(curve.steps, curve.mean, dash, color=colour, linewidth=1.4, label=row)
        panel.fill_between(curve.steps, curve.lowest, curve.highest, color=colour, alpha=0.15, linewidth=0)


def _logged(cell: Cell) -> dict[int, dict[str, float | None]]:
    """The figures of a training by step."""
    path = cell.run / HELD_OUT
    found = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            look = json.loads(line)
            found[int(look["step"])] = {name: look[name] for name in (*METRICS, "kid") if name in look}
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{path} is damaged ({error}); remove it to leave out the curve of {cell.row!r}") from error
    return found


def _curve(by_step: Mapping[int, Sequence[float]]) -> LearningCurve:
    values = [by_step[step] for step in sorted(by_step)]
    return LearningCurve(
        tuple(sorted(by_step)),
        tuple(sum(some) / len(some) for some in values),
        tuple(map(min, values)),
        tuple(map(max, values)),
        tuple(map(len, values)),
    )


def _heading(name: str) -> str:
    if name == "kid":
        return heading(_KID, higher_is_better=False)
    return heading(METRICS[name].label, METRICS[name].higher_is_better, METRICS[name].unit)
