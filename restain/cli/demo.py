"""`restain demo`: one run of everything."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="Folder for the page and its sources.", metavar="DIR")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the tissue and the networks.")] = 0,
) -> None:
    """Draw tissue, train VSMT and an unguided baseline, and measure both; six minutes on two CPU cores."""
    from rich.console import Console

    from restain.demo.run import run_demo

    page = run_demo(out, seed, Console(stderr=True))
    typer.echo(f"{page} shows the results; open it in a browser.")
