"""`restain statistics`: common statistics to normalise many slides."""

from pathlib import Path
from typing import Annotated

import typer

from restain.cli.options import DeviceOption, ModelMppOption, ModelOption, SlideMppOption


def command(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="H&E slides, folders of them, or a CSV of slides.", metavar="INPUT", show_default=False),
    ],
    model: ModelOption,
    out: Annotated[
        Path,
        typer.Option(help="File for the statistics, ending in .safetensors.", metavar="FILE", show_default=False),
    ],
    device: DeviceOption = None,
    mpp: SlideMppOption = None,
    model_mpp: ModelMppOption = None,
    no_tissue_mask: Annotated[bool, typer.Option("--no-tissue-mask", help="Include the glass.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Compute common statistics of many slides, so that `restain stain-slides --norm FILE` stains them consistently."""
    from rich.console import Console

    from restain.cli.device import usable_device
    from restain.errors import OutputError
    from restain.image import check_output
    from restain.staining.cohort import cohort_statistics
    from restain.staining.inputs import find_slides
    from restain.staining.model import load_model
    from restain.staining.settings import SlideSettings
    from restain.staining.statistics import save_statistics

    check_output(out, ".safetensors", [model, *inputs])
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; choose another name, or give --overwrite")
    slides = find_slides(inputs, out)
    loaded = load_model(model, usable_device(device))
    settings = SlideSettings(mpp=mpp, model_mpp=model_mpp, tissue_mask=not no_tissue_mask)
    with Console(stderr=True).status("reading tiles") as status:
        found = cohort_statistics(
            loaded, slides, settings, on_slide=lambda job: status.update(f"{job.source.name} was read")
        )
    for reason in found.failures.values():
        typer.echo(f"restain: left out: {' '.join(str(reason).split())}", err=True)
    if found.statistics:
        save_statistics(out, found.statistics, model=loaded.sha256)
        typer.echo(f"{out} has the statistics of {found.slides} slides; use it with restain stain-slides --norm {out}")
    if found.failures:
        raise typer.Exit(1)
