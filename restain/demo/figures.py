"""The drawings of the demo's page, as inline SVG: displacement arrows and loss curves."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from restain.metrics.plots import COLOURS, STYLE, svg

MOST_ARROWS = 8
"""In a row of a drawn field."""

Curve = Sequence[tuple[int, float]]
"""(step, value), by step."""


def draw_curves(runs: Mapping[str, Mapping[str, Curve]], columns: int = 4) -> str:
    """Draw each loss in a panel of its own, with one line per run that has it.

    Args:
        runs: run -> loss -> curve; the first two runs take `COLOURS`.
        columns: panels in a row.
    """
    terms = list(dict.fromkeys(term for losses in runs.values() for term in losses))
    rows = -(-len(terms) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.4, 1.75 * rows + 0.4), layout="constrained")
        panels = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flat)
        for panel, term in zip(panels, terms, strict=False):
            for (name, losses), colour in zip(runs.items(), COLOURS, strict=False):
                if term in losses:
                    steps, values = zip(*losses[term], strict=True)
                    panel.plot(steps, values, color=colour, linewidth=1.4, label=name)
            panel.set_title(term, loc="left", color="#2b2823")
        for panel in panels[len(terms) :]:
            panel.set_visible(False)
        for panel in panels[: len(terms)][-columns:]:
            panel.tick_params(labelbottom=True)
        first = figure.axes[0]
        figure.legend(*first.get_legend_handles_labels(), loc="outside upper right", ncols=len(runs))
        figure.supxlabel("step", fontsize=9, color="#5b5750")
        return svg(figure)


def draw_arrows(background: NDArray[np.uint8], fields: Mapping[str, Tensor], inside: Tensor) -> str:
    """Draw displacement fields over an image, one panel each, arrows in true length.

    Of fine grids every second region is drawn, or every third, so that there are at most `MOST_ARROWS` in a row.

    Args:
        background: H x H x 3 RGB.
        fields: title -> (dx, dy) in px of the image, 2 x h x w.
        inside: regions whose true place lies inside the tile, h x w; the arrows of the others are pale.
    """
    size_px, grid = len(background), inside.shape[-1]
    every = slice(None, None, -(-grid // MOST_ARROWS))
    centres = ((np.arange(grid) + 0.5) * size_px / grid)[every]
    colours = [COLOURS[0] if known else "#9b968e" for known in inside[every, every].flatten().tolist()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6 * len(fields), 5.9), layout="constrained")
        panels = figure.subplots(1, len(fields), squeeze=False)[0]
        for panel, (title, field) in zip(panels, fields.items(), strict=True):
            panel.imshow(background, alpha=0.45, extent=(0, size_px, size_px, 0), interpolation="bilinear")
            panel.quiver(
                *np.meshgrid(centres, centres),
                *field[:, every, every].numpy(),
                color=colours,
                angles="xy",
                scale_units="xy",
                scale=1,
                width=0.006,
            )
            panel.set_title(title, loc="left", color="#2b2823", fontsize=11)
            panel.set(xlim=(0, size_px), ylim=(size_px, 0), xticks=(), yticks=())
            panel.grid(visible=False)
        return svg(figure)
