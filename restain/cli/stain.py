"""`restain stain`: H&E images to virtual IHC."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from restain.cli.options import (
    TILES,
    DeviceOption,
    HaloOption,
    ModelOption,
    NormOption,
    OutFolderOption,
    OverwriteOption,
)

if TYPE_CHECKING:
    from restain.networks.stainer import Stainer
    from restain.staining.policies import NormPolicy
    from restain.trust.images import ImageMaps

ADVANCED = "Less common"


def command(
    inputs: Annotated[
        list[Path], typer.Argument(help="H&E images, and folders of them.", metavar="INPUT", show_default=False)
    ],
    model: ModelOption,
    out: OutFolderOption,
    trust: Annotated[
        bool, typer.Option("--trust", help="Map where the result is unreliable; takes 7 more passes.")
    ] = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
    norm: NormOption = "slide",
    tile_px: Annotated[
        int,
        typer.Option(help="Side of a tile, in px; larger images are stained in tiles.", min=1, rich_help_panel=TILES),
    ] = 1024,
    halo_px: HaloOption = None,
    published_test: Annotated[
        bool,
        typer.Option(
            "--published-test",
            help="Run pix2pix and PyramidP2P as their authors test them: batch norm from the image itself, dropout on. "
            "For images up to one tile.",
            rich_help_panel=ADVANCED,
        ),
    ] = False,
) -> None:
    """Stain H&E images virtually and write PNGs of the same names; for whole slides, see `restain stain-slides`."""
    from restain.checkpoint import load_generator, read_info
    from restain.cli.device import usable_device
    from restain.cli.progress import progress_bar
    from restain.models import find_model
    from restain.slides.kinds import is_plain_image
    from restain.staining.images import stain_files
    from restain.staining.inputs import passed_over
    from restain.staining.policies import check_norm, find_norm

    model = find_model(model)
    policy = find_norm(norm)
    check_norm(policy, read_info(model).sha256)
    generator = load_generator(model, usable_device(device), as_published_test=published_test)
    maps = _maps(model, generator, policy, tile_px, halo_px) if trust else None
    with progress_bar() as progress:
        task = progress.add_task("staining", total=None)

        def show(done: int, total: int) -> None:
            rate = (progress.tasks[0].speed or 0) / 1e6
            words = f"{done / 1e6:.1f} of {total / 1e6:.1f} megapixels, {rate:.2f} per second"
            progress.update(task, completed=done, total=total, description=words)

        written, failures = stain_files(
            generator,
            inputs,
            out,
            tile_px=tile_px,
            halo_px=halo_px,
            norm=policy,
            overwrite=overwrite,
            on_stained=maps.add if maps else lambda *_: None,
            on_progress=show,
        )
    for table in maps.save() if maps else ():
        typer.echo(f"{table} lists how unfamiliar each image is")
    for reason in failures.values():
        typer.echo(f"restain: not stained: {reason}", err=True)
    if slides := passed_over(inputs, is_plain_image):
        typer.echo(f"{slides} slides in the same folders are not stained; see restain stain-slides", err=True)
    typer.echo(f"{len(written)} of {len(written) + len(failures)} images are stained, in {out}")
    if failures:
        raise typer.Exit(1)


def _maps(model: Path, generator: "Stainer", norm: "NormPolicy", tile_px: int, halo_px: int | None) -> "ImageMaps":
    from restain.checkpoint import read_info
    from restain.staining.images import stain
    from restain.trust.familiarity import familiarity_of
    from restain.trust.images import ImageMaps
    from restain.trust.maps import check_turnable

    check_turnable(norm)
    again = partial(stain, generator, tile_px=tile_px, halo_px=halo_px, norm=norm)
    return ImageMaps(again, familiarity_of(read_info(model).extra))
