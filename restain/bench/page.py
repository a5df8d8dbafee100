"""Output of a bench: the table as Markdown and JSON, and a page with a row of pictures per method."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from restain.bench.cell import Cell
from restain.bench.curves import draw_curves, read_curves
from restain.bench.table import BenchTable, Line, Spread
from restain.folders import list_images
from restain.image import atomic_path, load_image
from restain.metrics.page import render_page

SHOWN_TILES = 4
_HEADER = ("Method", "Seeds", "Steps", "Pairs seen", "Training", "Auxiliary models", "Peak memory")


@dataclass(frozen=True)
class Strip:
    """One row of pictures."""

    name: str
    images: Sequence[NDArray[np.uint8]]


def write_outputs(out: Path, table: BenchTable, cells: Sequence[Cell], failures: Mapping[str, str]) -> Path:
    """Write `table.md`, `table.json` and `index.html`.

    Returns:
        The page.

    Raises:
        OutputError: one cannot be written; existing files are kept.
    """
    _write(out / "table.md", as_markdown(table, failures))
    curves = read_curves([line.name for line in table.lines], cells)
    content = as_json(table, failures)
    if curves:
        content["curves"] = {name: {row: asdict(curve) for row, curve in of.items()} for name, of in curves.items()}
    _write(out / "table.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
    page = out / "index.html"
    render_page(
        page,
        "bench/page.html",
        table=table,
        strips=_strips(out / "held-out", table, cells),
        curves=draw_curves(curves) if curves else "",
        costs=(_HEADER, [_cost(line) for line in table.lines]),
        failures=failures,
        facts={"restain": version("restain"), "torch": torch.__version__},
    )
    return page


def as_markdown(table: BenchTable, failures: Mapping[str, str]) -> str:
    """Three tables: the figures, the paired differences to the reference, the costs."""
    headings = [column.heading for column in table.columns.values()]
    figures = [
        [line.name, *(line.figures.get(name, Spread(())).words() for name in table.columns)] for line in table.lines
    ]
    differences = [
        [line.name, *(_marked(line, name, table) for name in table.columns)] for line in table.lines if line.differences
    ]
    figures += [
        [f"*{words}*", *(values.get(name, Spread(())).words() for name in table.columns)]
        for words, values in table.floors.items()
    ]
    prints = [f"{column.label} `{column.fingerprint}`" for column in table.columns.values()]
    parts = [
        _markdown(["Method", *headings], figures),
        f"Mean over seeds ± half of Student's 95 % interval; N = {table.tiles} tiles; {table.budget}."
        + (" Untrained baselines in italics." if table.floors else ""),
        _markdown([f"Difference to {table.reference}", *headings], differences) if differences else "",
        "Paired by seed; **bold** where the 95 % interval excludes 0." if differences else "",
        _markdown(_HEADER, [_cost(line) for line in table.lines]),
        "Protocols: " + ", ".join(prints) + ".",
        *(f"Left out: {note}" for note in table.notes),
        *(f"Failed: {words}: {reason}" for words, reason in failures.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(table: BenchTable, failures: Mapping[str, str]) -> dict[str, Any]:
    """Everything; values that are not finite become null."""

    def spread(found: Spread) -> dict[str, Any]:
        values = [number if math.isfinite(number) else None for number in found.values]
        mean, half = (number if math.isfinite(number) else None for number in (found.mean, found.half_width))
        return {"values": values, "mean": mean, "half_width": half}

    def times(found: Spread) -> dict[str, Any]:
        return spread(_known(found)) | {"values": spread(found)["values"]}

    def spreads(found: Mapping[str, Spread]) -> dict[str, Any]:
        return {name: spread(value) for name, value in found.items()}

    return {
        "restain": version("restain"),
        "reference": table.reference,
        "budget": table.budget,
        "tiles": table.tiles,
        "metrics": {
            name: {"label": column.heading, "protocol": dict(column.protocol), "fingerprint": column.fingerprint}
            for name, column in table.columns.items()
        },
        "rows": {
            line.name: {
                "seeds": line.seeds,
                "figures": spreads(line.figures),
                "differences": spreads(line.differences),
                "steps": spread(line.steps),
                "pairs": spread(line.pairs),
                "seconds": times(line.seconds),
                "auxiliary_seconds": times(line.auxiliary_seconds),
                "peak_bytes": spread(line.peak_bytes),
            }
            for line in table.lines
        },
        "without training": {words: spreads(values) for words, values in table.floors.items()},
        "left out": table.notes,
        "failures": dict(failures),
    }


def _marked(line: Line, name: str, table: BenchTable) -> str:
    words = line.differences.get(name, Spread(())).words("+")
    return f"**{words}**" if line.clearly(name, table.columns[name]) else words


def _cost(line: Line) -> list[str]:
    if not line.seeds:
        return [line.name, "none", *["–"] * 5]
    return [
        line.name,
        str(len(line.seeds)),
        f"{line.steps.mean:,.0f}",
        f"{line.pairs.mean:,.0f}",
        _minutes(line.seconds),
        _minutes(line.auxiliary_seconds) if any(line.auxiliary_seconds.values) else "none",
        f"{line.peak_bytes.mean / 2**20:,.0f} MiB",
    ]


def _minutes(seconds: Spread) -> str:
    mean = _known(seconds).mean
    return "–" if math.isnan(mean) else f"{mean / 60:.1f} min"


def _known(found: Spread) -> Spread:
    """Over the seeds with a recorded time, which is missing if the run was killed before it was written."""
    return Spread(tuple(value for value in found.values if math.isfinite(value)))


def _markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _strips(held_out: Path, table: BenchTable, cells: Sequence[Cell]) -> list[Strip]:
    """The H&E, the real IHC, and the first seed with a result of each row."""
    tiles = list_images(held_out / "he")
    chosen = [tiles[(2 * place + 1) * len(tiles) // (2 * SHOWN_TILES)].stem for place in range(SHOWN_TILES)]
    chosen = list(dict.fromkeys(chosen))
    strips = [Strip("H&E", _images(held_out / "he", chosen)), Strip("real IHC", _images(held_out / "real", chosen))]
    for line in table.lines:
        done = [cell for cell in cells if cell.row == line.name and cell.seed in line.seeds]
        strips += [Strip(line.name, _images(cell.out / "virtual", chosen)) for cell in done[:1]]
    return strips


def _images(folder: Path, stems: Sequence[str]) -> list[NDArray[np.uint8]]:
    paths = {path.stem: path for path in list_images(folder)}
    return [load_image(paths[stem]) for stem in stems]


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
