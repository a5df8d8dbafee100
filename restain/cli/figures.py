"""Prints a table of figures, in a narrower form if the terminal is too narrow."""

from dataclasses import replace

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from restain.metrics import ComparisonTable


def print_figures(table: ComparisonTable, console: Console) -> None:
    """Print the table with fingerprints instead of protocols.

    If it is too wide, fingerprints go below the table; if it still is, intervals go below their values.
    """
    shown = table.without("Protocol")
    if shown.width > console.width:
        prints = "; ".join(f"{row[-1]} {row[0]}" for row in shown.rows)
        shown = replace(shown.without("Fingerprint"), caption=f"{table.caption} Fingerprints: {prints}.")
    split = shown.width > console.width
    rows = [[cell.replace(" [", "\n[") if split else cell for cell in row] for row in shown.rows]
    grid = Grid(caption=escape(shown.caption), caption_justify="left", box=None, pad_edge=False)
    for name, *cells in zip(shown.header, *rows, strict=True):
        widest = max(len(line) for cell in cells for line in cell.splitlines())
        grid.add_column(escape(name), min_width=None if name in ("Metric", "N") else widest, overflow="fold")
    for row in rows:
        grid.add_row(*map(escape, row))
    console.print(grid)
