"""`restain stain`: H&E images to virtual IHC."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    inputs: Annotated[
        list[Path], typer.Argument(help="H&E images and folders of them.", metavar="INPUT", show_default=False)
    ],
    model: Annotated[Path, typer.Option(help="Checkpoint of a generator.", metavar="FILE", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the results.", metavar="DIR", show_default=False)],
    tile_px: Annotated[int, typer.Option(help="Side of a tile; larger images are stained in tiles.")] = 1024,
    halo_px: Annotated[
        int | None,
        typer.Option(help="What a tile sees around itself.", show_default="the reach of the generator"),
    ] = None,
    norm: Annotated[
        str,
        typer.Option(
            help="What larger images are normalised by: slide (statistics that all tiles share), dense (they change "
            "smoothly from tile to tile), tile (each its own; leaves seams), or a file of statistics.",
            metavar="slide|dense|tile|FILE",
        ),
    ] = "slide",
    device: Annotated[
        str | None, typer.Option(help="Such as cpu, cuda or cuda:1.", show_default="cuda where there is one")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that the folder holds.")] = False,
) -> None:
    """Stain H&E images virtually; each result is a PNG of the same name, subfolders kept."""
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from restain.checkpoint import load_generator, read_info
    from restain.errors import InputError
    from restain.slides.images import stain_files
    from restain.slides.norm import find_norm

    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {place}: torch cannot use it here; 'cpu' always works") from error
    generator = load_generator(model, place)
    policy = find_norm(norm, read_info(model).sha256)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("staining", total=None)

        def show(done: int, total: int) -> None:
            rate = (progress.tasks[0].speed or 0) / 1e6
            words = f"{done / 1e6:.1f} of {total / 1e6:.1f} megapixels, {rate:.2f} per second"
            progress.update(task, completed=done, total=total, description=words)

        written, failures = stain_files(
            generator, inputs, out, tile_px=tile_px, halo_px=halo_px, norm=policy, overwrite=overwrite, on_progress=show
        )

    for reason in failures.values():
        typer.echo(f"restain: not stained: {reason}", err=True)
    typer.echo(f"{len(written)} of {len(written) + len(failures)} images are stained, in {out}")
    if failures:
        raise typer.Exit(1)
