"""`restain train`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    recipe: Annotated[
        str,
        typer.Argument(help="Name of a recipe, as `restain recipes` lists them, or a TOML file.", metavar="RECIPE"),
    ],
    data: Annotated[
        Path,
        typer.Option(help="Folder of paired tiles, or a CSV file that lists them; the training part is learned from."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; one that was stopped goes on.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting that wins over the recipe's; repeatable.", metavar="SECTION.KEY=VALUE"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length in steps, in place of the recipe's; auxiliary models keep theirs.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
) -> None:
    """Train a method on paired tiles, or go on where the same command was stopped."""
    from rich.console import Console

    from restain.training import load_recipe, train

    console = Console(stderr=True)
    typer.echo(train(load_recipe(recipe, settings or ()), data, out, steps=steps, device=device, console=console))
