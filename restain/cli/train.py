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
    out: Annotated[
        Path, typer.Option(help="Folder of the run; one that was stopped is resumed, a finished one made longer.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting that wins over the recipe's; repeatable.", metavar="SECTION.KEY=VALUE"),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length in steps, in place of the recipe's; auxiliary models keep theirs.")
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
            help="A network for KID on held-out pairs, as module:attribute=weights.",
            metavar="ENTRY",
            show_default="Inception, if in torch's cache",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU where there is one.")] = "auto",
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
