"""`restain export`: a generator for programs without PyTorch."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[Path, typer.Option(help="Checkpoint of a generator.", metavar="FILE", show_default=False)],
    onnx: Annotated[Path, typer.Option(help="The ONNX file to write.", metavar="OUT", show_default=False)],
    norm: Annotated[
        Path | None,
        typer.Option(
            help="Statistics file of a stained slide, to build in; then it can stain tile by tile.",
            metavar="FILE",
            show_default="each image its own",
        ),
    ] = None,
) -> None:
    """Write a generator as ONNX, with free batch, height and width (multiples of 4 or more)."""
    from restain.checkpoint import load_generator, read_info
    from restain.checkpoint.onnx import export_onnx
    from restain.networks.norm import freeze
    from restain.staining.statistics import load_statistics

    generator = load_generator(model)
    if norm:
        generator = freeze(generator, load_statistics(norm, model=read_info(model).sha256))
    difference = export_onnx(generator, onnx)
    typer.echo(f"{onnx}, equal to PyTorch to {difference:.0e}")
