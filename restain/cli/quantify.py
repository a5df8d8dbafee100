"""`restain quantify`: count cells and measure DAB."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from restain.cli.options import CELLS, MarkerOption, NucleusOption, OutFolderOption, OverwriteOption, StainVectorsOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from restain.image import RGB
    from restain.slides.reader import Slide


def command(
    inputs: Annotated[
        list[Path],
        typer.Argument(help="IHC images, slides, and folders of images.", metavar="INPUT", show_default=False),
    ],
    out: OutFolderOption,
    marker: MarkerOption,
    mpp: Annotated[
        float | None,
        typer.Option(help="Micrometres per pixel of the inputs.", show_default="from the slides; required for images"),
    ] = None,
    nucleus_um: NucleusOption = 6.0,
    nuclei: Annotated[
        Literal["classical", "instanseg"],
        typer.Option(
            help="How to find nuclei: classical needs no model; instanseg is installed with restain\\[instanseg].",
            rich_help_panel=CELLS,
        ),
    ] = "classical",
    stain_vectors: StainVectorsOption = "reference",
    regions: Annotated[
        Path | None,
        typer.Option(help="GeoJSON of regions to measure separately, in px of the whole image.", metavar="FILE"),
    ] = None,
    tile_px: Annotated[int, typer.Option(min=64, help="Side of a tile, in px; memory grows with it.")] = 1024,
    overwrite: OverwriteOption = False,
) -> None:
    """Count cells and measure DAB in IHC images and slides; write tables, cells for QuPath, and overlays."""
    from rich.markup import escape

    from restain.cli.progress import progress_bar
    from restain.errors import RestainError
    from restain.image import make_folder
    from restain.quantify.files import MeasuredImage, QuantifyReport, load_rois, quantify_file, save_tables
    from restain.quantify.instanseg import load_instanseg
    from restain.quantify.tiles import QuantifySettings, fit_mpp
    from restain.slides.kinds import is_plain_image
    from restain.slides.reader import open_slide
    from restain.staining.inputs import find_images, passed_over

    drawn = load_rois(regions) if regions else []
    QuantifySettings(0.5 if mpp is None else mpp, marker, nucleus_um)  # wrong settings are reported before any work
    jobs = find_images(inputs, out, overwrite=overwrite)
    segmenter = load_instanseg() if nuclei == "instanseg" else lambda _: None
    vectors = _common_vectors([job.source for job in jobs], mpp) if stain_vectors == "estimated" else None
    make_folder(out)
    reports: list[QuantifyReport] = []
    failures: list[RestainError] = []
    with progress_bar() as progress:
        for number, job in enumerate(jobs, start=1):
            name = job.target.relative_to(out).with_suffix("").as_posix()
            task = progress.add_task(escape(f"{name}, {number} of {len(jobs)}"), total=None)
            try:
                with open_slide(job.source, mpp) as slide:
                    finest = fit_mpp(slide.mpp)
                    image = MeasuredImage(
                        name, slide.size_at(finest), partial(_read, slide, finest), slide.scale(finest)
                    )
                    progress.update(task, total=image.size[0] * image.size[1])
                    settings = QuantifySettings(finest, marker, nucleus_um, segmenter(finest), vectors)
                    advance = partial(progress.advance, task)
                    report = quantify_file(image, settings, out, rois=drawn, tile_px=tile_px, on_pixels=advance)
                reports.append(report)
            except RestainError as error:
                failures.append(error)
            progress.remove_task(task)
    if reports:
        save_tables(out, reports)
    for note in (note for report in reports for note in report.notes):
        typer.echo(note, err=True)
    for failure in failures:
        typer.echo(f"restain: not measured: {failure}", err=True)
    if slides := passed_over(inputs, is_plain_image):
        typer.echo(f"{slides} slides in the same folders are not measured; give them by name", err=True)
    done = len(jobs) - len(failures)
    where = f"; {out / 'regions.csv'} has one row for each" if done else ""
    typer.echo(f"{done} of {len(jobs)} images measured{where}")
    if failures:
        raise typer.Exit(1)


def _common_vectors(sources: "Sequence[Path]", mpp: float | None) -> "Tensor":
    """Estimate the stain vectors of at most 64 images and slides; unreadable ones are reported later."""
    from contextlib import suppress

    import numpy as np
    import torch

    from restain.errors import RestainError
    from restain.quantify.tiles import fit_mpp, sampled_pixels
    from restain.slides.reader import open_slide
    from restain.stains import estimate_stain_vectors, vectors_in_words

    pixels = [np.empty((0, 3), np.uint8)]
    for source in sources[:: -(-len(sources) // 64)]:
        with suppress(RestainError), open_slide(source, mpp) as slide:
            finest = fit_mpp(slide.mpp)
            pixels.append(sampled_pixels(partial(_read, slide, finest), slide.size_at(finest)))
    vectors = estimate_stain_vectors(torch.from_numpy(np.concatenate(pixels)) / 255)
    typer.echo(f"stain vectors {vectors_in_words(vectors)}")
    return vectors


def _read(slide: "Slide", mpp: float, location: tuple[int, int], size: tuple[int, int]) -> "RGB":
    """Read a box given in px at `mpp`."""
    scale = slide.scale(mpp)
    return slide.read((location[0] * scale, location[1] * scale), size, mpp)
