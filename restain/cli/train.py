"""`restain train`."""

from pathlib import Path
from typing import Annotated

import typer

from restain.cli.options import SettingsOption, TrainingDeviceOption


def command(
    recipe: Annotated[
        str,
        typer.Argument(
            help="Name of a recipe (see restain recipes), or a TOML file.", metavar="RECIPE", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder of the run; a stopped run resumes there.", metavar="DIR", show_default=False)
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of paired tiles, or a CSV file that lists them; the held-out part is not trained on.",
            metavar="DIR|FILE",
            show_default="data.root of the recipe",
        ),
    ] = None,
    settings: SettingsOption = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Length in steps, instead of the recipe's; auxiliary models keep theirs.",
            show_default="from the recipe",
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Checkpoint to start from, or the name of a model that comes with restain; tensors of equal name and "
            "shape are taken.",
            metavar="FILE|NAME",
            show_default=False,
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
    device: TrainingDeviceOption = "auto",
) -> None:
    """Train a method on paired tiles, resume a stopped run, or lengthen a finished one."""
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
