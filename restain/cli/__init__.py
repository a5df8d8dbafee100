"""The command line: one file per verb, each with one function `command`, imported here and registered under its name."""

import importlib
import importlib.util
import sys
from typing import Annotated

import typer

from restain.errors import RestainError

VERBS = {
    "phantom": "restain.cli.phantom",
    "train": "restain.cli.train",
    "stain": "restain.cli.stain",
    "evaluate": "restain.cli.evaluate",
    "import": "restain.cli.import_",
    "info": "restain.cli.info",
    "demo": "restain.cli.demo",
}
"""Verb -> module. The modules import torch inside their command only, so that help comes at once."""

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def restain(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """Virtual immunohistochemistry staining: train, stain, measure."""
    if version:
        from importlib.metadata import version as installed_version

        typer.echo(installed_version("restain"))
        raise typer.Exit


for verb, module in VERBS.items():
    if importlib.util.find_spec(module):
        app.command(verb)(importlib.import_module(module).command)


def main() -> None:
    """Run the command line; what restain refuses on purpose becomes one line on stderr and exit status 1."""
    try:
        app(prog_name="restain")
    except RestainError as error:
        typer.echo(f"restain: {' '.join(str(error).split())}", err=True)
        sys.exit(1)
