"""The command line: one file per verb, each with one function `command` that is registered here under the verb."""

import io
import logging
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from restain.cli import (
    bench,
    calibrate,
    demo,
    evaluate,
    export,
    import_,
    info,
    models,
    pairs_align,
    pairs_check,
    pairs_cut,
    pairs_error,
    phantom,
    push,
    quantify,
    recipes,
    stain,
    stain_slides,
    statistics,
    train,
    view,
)
from restain.cli.stopping import AGAIN, RESUME, stoppable
from restain.errors import InputError, RestainError
from restain.workers.cores import prepare_threads

VERBS: dict[str, Callable[..., None]] = {
    "phantom": phantom.command,
    "train": train.command,
    "stain": stain.command,
    "stain-slides": stain_slides.command,
    "statistics": statistics.command,
    "view": view.command,
    "evaluate": evaluate.command,
    "bench": bench.command,
    "quantify": quantify.command,
    "calibrate": calibrate.command,
    "import": import_.command,
    "export": export.command,
    "info": info.command,
    "push": push.command,
    "demo": demo.command,
}
"""Each imports torch and similar libraries only when it runs, so that help is instant."""

STOPPED = {
    "train": RESUME,
    "bench": RESUME,
    "demo": RESUME,
    "pairs align": RESUME,
    "pairs cut": RESUME,
    "stain": "Stopped; run the same command with --overwrite to start again.",
    "stain-slides": RESUME,
}
"""Messages of commands that are stopped; all others say `AGAIN`."""

GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "models": ("List the models that come with restain, or show the card of one.", {"show": models.show}),
    "pairs": (
        "Make pairs that fit, and measure how well.",
        {
            "check": pairs_check.command,
            "align": pairs_align.command,
            "cut": pairs_cut.command,
            "error": pairs_error.command,
        },
    ),
    "recipes": ("List the recipes that come with restain, or copy one.", {"copy": recipes.copy}),
}
"""Commands of two words: the first word, its help, and the second words."""

ALONE: dict[str, Callable[..., None]] = {"models": models.command, "recipes": recipes.command}
"""First words that are commands by themselves."""


class Verbs(TyperGroup):
    """The commands; `restain stain` of slides runs `restain stain-slides`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command and its arguments."""
        if args[:1] == ["stain"] and not {"--help", "-h"} & set(args) and stain_slides.is_meant(args[1:]):
            typer.echo("These are slides, so restain stain-slides is run.", err=True)
            args = ["stain-slides", *args[1:]]
        return super().resolve_command(ctx, args)


app = typer.Typer(cls=Verbs, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


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


for verb, command in VERBS.items():
    app.command(verb)(stoppable(command, STOPPED.get(verb, AGAIN)))

for word, (about, verbs) in GROUPS.items():
    group = typer.Typer(no_args_is_help=word not in ALONE, help=about)
    if word in ALONE:
        group.callback(invoke_without_command=True, help=about)(ALONE[word])
    for verb, command in verbs.items():
        group.command(verb)(stoppable(command, STOPPED.get(f"{word} {verb}", AGAIN)))
    app.add_typer(group, name=word)


def _at_home(argument: str) -> str:
    """Expand `~` where the shell did not, as in `--out=~/virtual`."""
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{equals}{os.path.expanduser(value)}" if value.startswith("~") else argument  # noqa: PTH111  # no Path


def main() -> None:
    """Run the command line; errors of restain become one line on stderr and exit status 1."""
    for stream in (sys.stdout, sys.stderr):  # a console with another encoding must not stop the work
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
    prepare_threads()
    sys.argv[1:] = map(_at_home, sys.argv[1:])
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # our own message covers damaged files
    try:
        _refuse_empty(sys.argv[1:])
        app(prog_name="restain")
    except RestainError as error:
        typer.echo(f"restain: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


def _refuse_empty(arguments: list[str]) -> None:
    """Refuse empty arguments: as a path they would mean the working directory, and usually a shell variable is unset.

    Raises:
        InputError: there is one.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if not argument.strip():
            place = f"after {before}" if before else "at the beginning"
            raise InputError(f"the argument {place} is empty; is a variable in the command not set?")
