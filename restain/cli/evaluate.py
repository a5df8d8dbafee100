"""`restain evaluate`: virtual images against real ones."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    virtual: Annotated[Path, typer.Option(help="Folder of virtual images.", metavar="DIR", show_default=False)],
    real: Annotated[
        Path,
        typer.Option(help="Folder of real images, same names and sizes.", metavar="DIR", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for evaluation.json; nothing is written without it.", metavar="DIR")
    ] = None,
) -> None:
    """Measure virtual images against the real ones of the same name: similarity, amount and place of DAB."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from restain.metrics import evaluate, tabulate

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("tiles", total=None)
        found = evaluate(virtual, real, out, lambda done, total: progress.update(task, completed=done, total=total))

    words = tabulate({"Virtual": found})
    table = Table(*words.header, caption=escape(words.caption), caption_justify="left", box=None, pad_edge=False)
    for row in words.rows:
        table.add_row(*map(escape, row))
    Console().print(table)
    if out is not None:
        typer.echo(f"{out / 'evaluation.json'} holds the figures, their protocols and every tile.")
