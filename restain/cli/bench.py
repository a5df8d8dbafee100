"""`restain bench`."""

from pathlib import Path
from typing import Annotated

import typer

from restain.cli.options import ExtractorsOption, SettingsOption, TrainingDeviceOption


def command(
    recipes: Annotated[
        list[str],
        typer.Argument(
            help="Rows of the table: recipes by name or file, with an optional title before and settings after.",
            show_default=False,
            metavar="[NAME=]RECIPE[,SECTION.KEY=VALUE…]…",
        ),
    ],
    data: Annotated[
        Path, typer.Option(help="Folder of paired tiles, with a held-out part.", metavar="DIR", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder of the bench; run the same command to resume.", metavar="DIR", show_default=False),
    ],
    budget: Annotated[
        str | None,
        typer.Option(
            help="Length of each training, not counting auxiliary models.",
            metavar="steps=N|minutes=M",
            show_default="from each recipe",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings per row, each with its own seed.")] = 3,
    settings: SettingsOption = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            help="Folder of IHC registered with the held-out H&E, to measure against.",
            metavar="DIR",
            show_default="the data set's IHC",
        ),
    ] = None,
    tiles: Annotated[
        int | None, typer.Option(min=1, help="Number of held-out tiles to measure, evenly spread.", show_default="all")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Row to compare the others with.", metavar="NAME", show_default="the first"),
    ] = None,
    extractor: ExtractorsOption = None,
    processes: Annotated[int, typer.Option(min=1, help="Trainings at a time, spread over the GPUs.")] = 1,
    device: TrainingDeviceOption = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            help="Train on Ray: the address of a cluster, or local for this machine.",
            metavar="ADDRESS|local",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Compare methods: train each with several seeds under one budget, stain the held-out tiles, and measure."""
    from rich.console import Console

    from restain.bench import Budget, read_rows, run_bench
    from restain.cli.entries import entry

    outcome = run_bench(
        read_rows(recipes, settings or ()),
        data,
        out,
        budget=Budget.parse(budget) if budget else Budget(),
        seeds=seeds,
        truth=truth,
        tiles=tiles,
        reference=reference,
        extractors=[entry(words) for words in extractor or ()],
        processes=processes,
        device=device,
        ray=ray,
        console=Console(stderr=True),
    )
    typer.echo((outcome.page.parent / "table.md").read_text(encoding="utf-8"))
    typer.echo(f"{outcome.page} shows it with pictures; table.md and table.json are next to it.")
    if outcome.failures:
        raise typer.Exit(1)
