"""`restain data check`: is a paired data set fit for use?"""

from pathlib import Path
from typing import Annotated

import typer


def command(
    root: Annotated[Path, typer.Argument(help="The data set's folder.", metavar="ROOT", show_default=False)],
    cases: Annotated[
        str | None,
        typer.Option(
            help="Regular expression for the case in a tile's name; its first group, if any.", metavar="REGEX"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for check.json and worst.png; nothing is written without it.")
    ] = None,
) -> None:
    """Look for shared cases, tiles of the same tissue, swapped stains, wrong scale, blur and misaligned pairs."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from restain.data.cases import cases_by_pattern
    from restain.data.check import KINDS, check
    from restain.data.contact_sheet import save_contact_sheet

    case = cases_by_pattern(cases) if cases else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("pairs", total=None)
        found = check(root, case, lambda done, total: progress.update(task, completed=done, total=total))

    table = Table("Looked for", "Grave", "Other", "First", box=None, pad_edge=False)
    for kind in KINDS:
        problems = [problem for problem in found.problems if problem.kind == kind]
        grave = sum(problem.grave for problem in problems)
        first = f"{' and '.join(problems[0].tiles[:2])}: {problems[0].words}" if problems else ""
        table.add_row(kind, str(grave or "–"), str(len(problems) - grave or "–"), escape(first))
    Console().print(table)
    if found.matched:
        px = found.median_misalignment_px
        typer.echo(f"Median misalignment: {px:.0f} px, of {len(found.matched)} of {len(found.facts)} pairs.")
    for note in found.notes:
        typer.echo(note)
    if out is not None:
        found.save(out / "check.json")
        sheet = save_contact_sheet(found, out / "worst.png")
        typer.echo(f"{out / 'check.json'} holds every pair" + (f", {out / 'worst.png'} the worst." if sheet else "."))
    if any(problem.grave for problem in found.problems):
        raise typer.Exit(1)
