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
        typer.Option(help="Folder of paired tiles, or a CSV file that lists them; only the training part is used."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; a stopped run is resumed, a finished one lengthened.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Setting that overrides the recipe's; repeatable.", metavar="SECTION.KEY=VALUE"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length in steps, instead of the recipe's; auxiliary models keep theirs.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint to start from, or the name of a model of the package: every tensor of the same name "
            "and shape is taken.",
            metavar="MODEL",
        ),
    ] = None,
    extractor: Annotated[
        str | None,
        typer.Option(
            help="Network for KID on held-out pairs, as module:attribute=weights.",
            metavar="ENTRY",
            show_default="Inception, if in torch's cache",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if there is one.")] = "auto",
) -> None:
    """Train a method on paired tiles; resume a run that was stopped, or lengthen one that is finished."""
    from rich.console import Console

    from restain.cli.entries import entry
    from restain.models import find_model
    from restain.training import load_recipe, train

    checkpoint = train(
        load_recipe(recipe, settings or (), given_as="--set"),
        data,
        out,
        steps=steps,
        start=find_model(init) if init else None,
        extractor=entry(extractor) if extractor else None,
        device=device,
        console=Console(stderr=True),
    )
    typer.echo(checkpoint)
