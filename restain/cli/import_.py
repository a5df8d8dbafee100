"""`restain import`: a published weight file to a restain checkpoint."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    file: Annotated[Path, typer.Argument(help="PyTorch weight file (*.pth).", metavar="FILE", show_default=False)],
    out: Annotated[Path, typer.Option(help="Checkpoint to write (*.safetensors).", metavar="FILE", show_default=False)],
    mpp: Annotated[
        float | None, typer.Option(help="Micrometres per pixel of the training images, such as 0.466.")
    ] = None,
    stain: Annotated[str | None, typer.Option(help="Name of the virtual stain, such as HER2.")] = None,
    key: Annotated[
        str | None,
        typer.Option(
            help="Key of the weights in the file, such as netG or state.model.", show_default="the usual places"
        ),
    ] = None,
    kind: Annotated[
        Literal["generator", "autoencoder"],
        typer.Option(help="Kind of network; needed for VSMT's autoencoders, whose names are ambiguous."),
    ] = "generator",
) -> None:
    """Convert published weights (pix2pix, CycleGAN, CUT, ASP, PSPStain, SIM-GAN, VSMT, …) to a restain checkpoint."""
    from restain.checkpoint import import_published
    from restain.image import check_output

    check_output(out, ".safetensors", [file])
    info = import_published(file, out, kind=kind, key=key, mpp=mpp, stain=stain)
    shape = ", ".join(f"{name} {value}" for name, value in info.network.items())
    typer.echo(f"{file.name} is a {info.kind} ({shape}); the checkpoint is {out}")
