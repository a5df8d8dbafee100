"""`restain recipes`."""

from pathlib import Path
from typing import Annotated

import typer


def command(context: typer.Context) -> None:
    """List the recipes that come with restain, for `restain train NAME` and `restain bench NAME`."""
    if context.invoked_subcommand is not None:
        return
    from restain.training.shelf import description, packaged_recipes

    known = packaged_recipes()
    width = max(map(len, known))
    for name, path in known.items():
        typer.echo(f"{name:{width}}  {description(path)}")
    typer.echo(
        "\nTo train one on other data, describe the data: for BCI --set data.mpp=0.46, "
        "for another stain --set data.stain=NAME.\n`restain recipes copy NAME` writes one to edit."
    )


def copy(
    name: Annotated[str, typer.Argument(help="Name of the recipe.", metavar="NAME", show_default=False)],
    destination: Annotated[
        Path | None,
        typer.Argument(help="File or folder to write to.", metavar="DEST", show_default="NAME.toml"),
    ] = None,
) -> None:
    """Copy a recipe to a new file, to edit and train from."""
    from restain.training.shelf import copy_recipe

    typer.echo(copy_recipe(name, destination))
