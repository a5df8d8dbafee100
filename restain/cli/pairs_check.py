"""`restain pairs check`: is a paired data set fit for use?"""

from pathlib import Path
from typing import Annotated

import typer

from restain.cli.options import CasesOption


def command(
    root: Annotated[
        Path,
        typer.Argument(
            help="Folder of the data set, or a CSV file that lists its pairs.", metavar="ROOT", show_default=False
        ),
    ],
    cases: CasesOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for check.json and worst.png.", metavar="DIR", show_default="not written"),
    ] = None,
) -> None:
    """Check a data set for shared cases, repeated tissue, swapped stains, wrong scale, blur and misaligned pairs."""
    import numpy as np
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table

    from restain.data.cases import cases_by_pattern
    from restain.data.check import PROBLEM_KINDS, check
    from restain.data.contact_sheet import save_contact_sheet
    from restain.image import make_folder

    case = cases_by_pattern(cases) if cases else None
    if out is not None:
        make_folder(out)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("pairs", total=None)
        found = check(root, case, lambda done, total: progress.update(task, completed=done, total=total))

    table = Table("Looked for", "Grave", "Other", "First", box=None, pad_edge=False)
    for kind in PROBLEM_KINDS:
        problems = [problem for problem in found.problems if problem.kind == kind]
        grave = sum(problem.grave for problem in problems)
        first = f"{' and '.join(problems[0].shown)}: {problems[0].words}" if problems else ""
        table.add_row(kind, str(grave or "–"), str(len(problems) - grave or "–"), escape(first))
    Console().print(table)
    if found.matched:
        apart = Table("Sections apart, px", "Pairs", "Median", "Worst tenth", "Worst", "", box=None, pad_edge=False)
        for part in dict.fromkeys(fact.part for fact in found.matched):
            px = {fact.name: fact.misalignment.median_px for fact in found.matched if fact.part == part}
            worst = max(px, key=px.__getitem__)
            middle, high = np.quantile(list(px.values()), (0.5, 0.9))
            apart.add_row(
                part, str(len(px)), f"{middle:.0f}", f"from {high:.0f}", f"{px[worst]:.0f}", escape(f"in {worst}")
            )
        Console().print("", apart)
    for note in found.notes:
        typer.echo(note)
    if out is not None:
        found.save(out / "check.json")
        sheet = save_contact_sheet(found, out / "worst.png")
        typer.echo(f"{out / 'check.json'} holds every pair" + (f", {out / 'worst.png'} the worst." if sheet else "."))
    if any(problem.grave for problem in found.problems):
        raise typer.Exit(1)
