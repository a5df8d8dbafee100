"""`restain export`: a generator for programs without PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from restain.cli.options import ModelOption


def command(
    model: ModelOption,
    onnx: Annotated[Path, typer.Option(help="ONNX file to write.", metavar="FILE", show_default=False)],
    norm: Annotated[
        Path | None,
        typer.Option(
            help="File of statistics to build in, so that the network can stain tile by tile.",
            metavar="FILE",
            show_default="statistics of each image",
        ),
    ] = None,
) -> None:
    """Export a generator to ONNX, with dynamic batch, height and width."""
    from restain.checkpoint import load_generator, read_info
    from restain.checkpoint.onnx import export_onnx
    from restain.image import check_output
    from restain.networks.norm import freeze
    from restain.staining.statistics import load_statistics

    check_output(onnx, ".onnx", [model, *([norm] if norm else [])])
    generator = load_generator(model)
    if norm:
        generator = freeze(generator, load_statistics(norm, model=read_info(model).sha256))
    difference = export_onnx(generator, onnx)
    typer.echo(f"{onnx} differs from PyTorch by at most {difference:.0e}")
