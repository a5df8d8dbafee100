"""`restain demo`: one run of everything."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path, typer.Option(help="Folder for the page and its sources.", metavar="DIR")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the tissue and the networks.")] = 0,
    slide: Annotated[
        Path | None,
        typer.Option(help="A slide or H&E image of yours, stained too.", metavar="FILE", show_default=False),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="Its micrometres per pixel.", show_default="from the file, 0.5 for an image without"),
    ] = None,
) -> None:
    """Stain drawn tissue by starter weights, then register, train, stain and measure; minutes on two CPU cores."""
    from rich.console import Console

    from restain.demo.run import run_demo

    page = run_demo(out, seed, Console(stderr=True), slide=slide, mpp=mpp)
    typer.echo(f"{page} shows the results; open it in a browser.")
