"""The drawing of the demo's page, as inline SVG: how a loss falls."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from restain.metrics.plots import COLOURS, STYLE, svg

Curve = Sequence[tuple[int, float]]
"""(step, value), by step."""


def draw_curves(curves: Mapping[str, Curve], label: str) -> str:
    """Draw curves into one panel.

    Args:
        curves: name -> curve, in the order of `COLOURS`.
        label: of the values.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 2.6), layout="constrained")
        panel = figure.subplots()
        for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
            panel.plot(*zip(*curve, strict=True), color=colour, linewidth=1.6, label=name)
        panel.set_title(label, loc="left", color="#2b2823")
        panel.set_ylim(bottom=0)
        panel.set_xlabel("step", fontsize=9, color="#5b5750")
        panel.legend(frameon=False)
        return svg(figure)
