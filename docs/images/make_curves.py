"""Draw the learning curves of benches, one row each, on common axes.

Run it from the project's root, with the picture's name and the benches:
`python docs/images/make_curves.py curves.png "displaced pairs=BENCH" "registered pairs=BENCH"`.
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from restain.bench.curves import LearningCurve, draw_lines, line_styles
from restain.metrics.plots import STYLE

TITLES = {"psnr": "PSNR ↑, dB", "positive_dice": "Positive area, Dice ↑", "dab_error": "DAB density error ↓, OD"}


def main(picture: str, benches: dict[str, Path]) -> None:
    """Write the picture beside this script."""
    tables = {name: json.loads((bench / "table.json").read_text("utf-8")) for name, bench in benches.items()}
    styles = line_styles([row for table in tables.values() for row in table["rows"]])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9 * len(tables) + 0.4), layout="constrained")
        panels = figure.subplots(len(tables), len(TITLES), sharex=True, sharey="col", squeeze=False)
        for line, (name, table) in zip(panels, tables.items(), strict=True):
            for panel, (metric, title) in zip(line, TITLES.items(), strict=True):
                curves = table["curves"][metric]
                draw_lines(panel, {row: LearningCurve(**curve) for row, curve in curves.items()}, styles)
                panel.axhline(
                    table["without training"]["the H&E as it is"][metric]["mean"], color="#8a847a", ls=":", lw=1
                )
                panel.set_title(f"{title}\n{name}", fontsize=9)
        for panel in panels[-1]:
            panel.set_xlabel("generator steps")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        figure.savefig(Path(__file__).with_name(picture), dpi=110)


if __name__ == "__main__":
    main(sys.argv[1], {name: Path(bench) for name, _, bench in (given.partition("=") for given in sys.argv[2:])})
