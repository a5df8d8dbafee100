"""The command line: one file per verb, each with one function `command` that is registered here under the verb."""

import importlib
import importlib.util
import sys
from importlib.metadata import version
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


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("restain"))
        raise typer.Exit


@app.callback()
def restain(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Virtual immunohistochemistry staining: train, stain, measure."""


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
