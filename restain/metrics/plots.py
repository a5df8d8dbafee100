"""Plots of the report as inline SVG: virtual against real, and their agreement."""

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from restain.metrics.agreement import WITHIN

COLOURS = ("#5661b3", "#a8571c", "#3f7d4e", "#8f4a86", "#7a6a2f")
"""Of the methods, in order."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "restain",  # the same drawing gives the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.edgecolor": "#b8b4ae",
    "axes.labelcolor": "#5b5750",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": "#5b5750",
    "ytick.color": "#5b5750",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#ebe8e3",
    "legend.frameon": False,
}
_QUIET: dict[str, Any] = {"color": "#9b968e", "linewidth": 1}


def draw_agreement(
    virtual: NDArray[np.float64], real: NDArray[np.float64], quantity: str, colour: str = COLOURS[0]
) -> str:
    """Draw virtual over real with the line of equality, and their difference over their mean (Bland & Altman 1986).

    Args:
        virtual: one value per tile, N.
        real: the partners'.
        quantity: its name, with unit.
        colour: of the dots.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.7), layout="constrained")
        scatter, agreement = figure.subplots(1, 2)
        _draw_scatter(scatter, virtual, real, quantity, colour)
        _draw_bland_altman(agreement, virtual, real, quantity, colour)
        return svg(figure)


def svg(figure: Figure) -> str:
    """The `<svg>` element, as wide as its container."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _draw_scatter(
    panel: Axes, virtual: NDArray[np.float64], real: NDArray[np.float64], quantity: str, colour: str
) -> None:
    top = 1.05 * _scale(virtual, real)
    panel.plot([0, top], [0, top], **_QUIET)
    panel.scatter(real, virtual, s=16, color=colour, alpha=0.65, linewidth=0)
    panel.set(xlim=(0, top), ylim=(0, top), xlabel=f"real: {quantity}", ylabel=f"virtual: {quantity}", aspect="equal")


def _draw_bland_altman(
    panel: Axes, virtual: NDArray[np.float64], real: NDArray[np.float64], quantity: str, colour: str
) -> None:
    mean, gap = (virtual + real) / 2, virtual - real
    bias, spread = gap.mean(), gap.std(ddof=1) if len(gap) > 1 else 0.0
    scale = _scale(virtual, real)
    heights = np.array([bias, bias + WITHIN * spread, bias - WITHIN * spread])
    heights[np.abs(heights) < 1e-9 * scale] = 0  # what rounding leaves of equal values
    panel.axhline(0, **_QUIET)
    panel.scatter(mean, gap, s=16, color=colour, alpha=0.65, linewidth=0)
    dashes = (0, (4, 3))
    lines = [("bias", "-"), (f"+{WITHIN} SD", dashes), (f"−{WITHIN} SD", dashes)]
    if heights.min() == heights.max():
        heights, lines = heights[:1], lines[:1]
    for height, (words, line) in zip(heights.tolist(), lines, strict=True):
        panel.axhline(height, color="#2b2823", linewidth=1, linestyle=line)
        panel.annotate(
            f"{words} {height:+.3g}".replace("-", "−"),
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 2),
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7.5,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8},
        )
    panel.set(xlabel=f"mean of both: {quantity}", ylabel="virtual − real")
    panel.set(xlim=_limits(mean, scale, 0.05), ylim=_limits(np.concatenate([gap, heights, [0]]), scale, 0.15))


def _scale(virtual: NDArray[np.float64], real: NDArray[np.float64]) -> float:
    """Magnitude of the values; 1 if all are 0."""
    largest = float(np.abs([virtual, real]).max())
    return largest if largest > 1e-6 else 1.0


def _limits(values: NDArray[np.float64], scale: float, margin: float) -> tuple[float, float]:
    """Ends of an axis with a margin around the values, at least 2 % of the scale apart: equal values look equal."""
    low, high = float(values.min()), float(values.max())
    half = max((0.5 + margin) * (high - low), 0.01 * scale)
    return (low + high) / 2 - half, (low + high) / 2 + half
