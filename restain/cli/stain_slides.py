"""`restain stain-slides`: whole slides and archives of them to virtual IHC."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from restain.cli.options import (
    SPEED,
    TILES,
    Bfloat16Option,
    DeviceOption,
    HaloOption,
    ModelMppOption,
    ModelOption,
    NormOption,
    OverwriteOption,
    SlideMppOption,
)

if TYPE_CHECKING:
    from restain.staining.settings import SlideSettings
    from restain.staining.slide import Extra
    from restain.workers.pool import Pool

WHAT = "What is stained"
RESULT = "Result"
MANY = "Many slides"


def command(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="H&E slides, folders of them, or a CSV of slides; plain images count as slides too.",
            metavar="INPUT",
            show_default=False,
        ),
    ],
    model: ModelOption,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the results; for one slide, also a file that ends in .ome.tif or .ome.zarr.",
            metavar="DIR|FILE",
            show_default=False,
        ),
    ],
    mpp: SlideMppOption = None,
    model_mpp: ModelMppOption = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Map where the result is unreliable; takes 8 more passes.")
    ] = False,
    overwrite: OverwriteOption = False,
    device: DeviceOption = None,
    region: Annotated[
        str | None,
        typer.Option(
            help="Stain only this part, in px of the slide's first level.",
            metavar="X,Y,W,H",
            show_default=False,
            rich_help_panel=WHAT,
        ),
    ] = None,
    rois: Annotated[
        Path | None,
        typer.Option(
            help="Stain only the polygons in this GeoJSON.", metavar="FILE", show_default=False, rich_help_panel=WHAT
        ),
    ] = None,
    no_tissue_mask: Annotated[
        bool, typer.Option("--no-tissue-mask", help="Stain the glass too.", rich_help_panel=WHAT)
    ] = False,
    norm: NormOption = "slide",
    tile_px: Annotated[
        int,
        typer.Option(help="Side of a tile, in px; halved on a CPU until a pass fits in memory.", rich_help_panel=TILES),
    ] = 1024,
    halo_px: HaloOption = None,
    format: Annotated[  # noqa: A002  # the option's name
        Literal["ome-tiff", "ome-zarr"],
        typer.Option(
            help="Format of the results in a folder; a single file has the format of its name.", rich_help_panel=RESULT
        ),
    ] = "ome-tiff",
    compression: Annotated[
        Literal["jpeg", "compact", "lossless"],
        typer.Option(
            help="jpeg (RGB), compact (JPEG with subsampled colour), or lossless (deflate).", rich_help_panel=RESULT
        ),
    ] = "jpeg",
    quality: Annotated[int, typer.Option(help="JPEG quality, 1 to 100.", rich_help_panel=RESULT)] = 90,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Tiles per pass of the network.",
            min=1,
            show_default="1 on a CPU, 2 on a GPU",
            rich_help_panel=SPEED,
        ),
    ] = None,
    bfloat16: Bfloat16Option = False,
    engine: Annotated[
        Literal["torch", "openvino"],
        typer.Option(help="Inference engine; openvino is faster on a CPU with --bfloat16.", rich_help_panel=SPEED),
    ] = "torch",
    processes: Annotated[
        int, typer.Option(help="Slides at a time, each in its own process.", min=1, rich_help_panel=MANY)
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Stain only every N-th slide from the I-th on, to share the work between machines.",
            metavar="I/N",
            show_default=False,
            rich_help_panel=MANY,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Stain on Ray, one GPU or CPU per slide: the address of a cluster, or local for this machine.",
            metavar="ADDRESS|local",
            show_default=False,
            rich_help_panel=MANY,
        ),
    ] = None,
) -> None:
    """Stain whole slides virtually and write pyramidal OME-TIFFs; run the same command to resume."""
    from restain.errors import InputError
    from restain.models import find_model
    from restain.slides.codec import Codec
    from restain.slides.kinds import names_result
    from restain.staining.policies import find_norm
    from restain.staining.settings import SlideSettings

    model = find_model(model)
    settings = SlideSettings(
        norm=find_norm(norm),
        codec=Codec(compression, quality),
        tile_px=tile_px,
        halo_px=halo_px,
        mpp=mpp,
        model_mpp=model_mpp,
        region=_parse_region(region),
        rois=rois,
        tissue_mask=not no_tissue_mask,
        batch=batch,
        bfloat16=bfloat16,
        engine=engine,
    )
    extra = _maps(settings) if trust else None
    if not names_result(out):
        ending = {"ome-tiff": ".ome.tif", "ome-zarr": ".ome.zarr"}[format]
        _stain_many(inputs, model, out, ending, settings, extra, device, overwrite, processes, shard, ray)
        return
    for option, given in (("--ray", ray), ("--shard", shard), ("--processes", processes > 1)):
        if given:
            raise InputError(f"{option} is for many slides, with a folder as --out; {out} is one file")
    if len(inputs) > 1 or inputs[0].is_dir() or inputs[0].suffix.lower() == ".csv":
        raise InputError(f"{out} is one file, but several slides were given; give a folder with --out")
    _stain_one(inputs[0], model, out, settings, extra, device, overwrite)


def is_meant(words: Sequence[str]) -> bool:
    """Whether the arguments of `restain stain` name slides: a slide, a CSV, a folder of slides, or a result's name.

    New users try `restain stain` first, so it runs `restain stain-slides` then.
    """
    from restain.folders import files_below
    from restain.slides.kinds import is_plain_image, is_slide, names_result

    for path in (Path(word.partition("=")[2] if word.startswith("--") else word) for word in words):
        if names_result(path):
            return True
        if path.is_file() and (is_slide(path) or path.suffix.lower() == ".csv"):
            return True
        if path.is_dir() and not any(map(is_plain_image, files_below(path))):
            return any(map(is_slide, files_below(path)))
    return False


def _maps(settings: "SlideSettings") -> "Extra":
    from restain.trust.slide import SlideMaps

    maps = SlideMaps()
    maps.check(settings)
    return maps


def _parse_region(text: str | None) -> tuple[int, int, int, int] | None:
    from restain.errors import InputError

    if text is None:
        return None
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--region {text}: expected x,y,width,height in px, such as 0,0,4096,4096") from error
    return x, y, width, height


def _stain_one(
    source: Path,
    model: Path,
    out: Path,
    settings: "SlideSettings",
    extra: "Extra | None",
    device: str | None,
    overwrite: bool,
) -> None:
    from restain.cli.device import usable_device
    from restain.cli.progress import progress_bar
    from restain.staining.model import load_model
    from restain.staining.slide import stain_slide

    loaded = load_model(model, usable_device(device))
    with progress_bar() as progress:
        task = progress.add_task("reading the slide", total=None)

        def show(done: int, total: int, done_mpx: float, total_mpx: float) -> None:
            rate = progress.tasks[0].speed or 0
            words = f"{done} of {total} tiles, {done_mpx:.0f} of {total_mpx:.0f} megapixels, {rate:.2f} per second"
            progress.update(task, completed=done_mpx, total=total_mpx, description=words)

        report = stain_slide(loaded, source, out, settings, overwrite=overwrite, extra=extra, on_progress=show)
    for note in report.notes:
        typer.echo(f"{source.name}: {note}", err=True)
    typer.echo(f"{out} exists already, from the same slide, model and settings" if report.skipped else f"{out}")


def _stain_many(
    inputs: list[Path],
    model: Path,
    out: Path,
    ending: str,
    settings: "SlideSettings",
    extra: "Extra | None",
    device: str | None,
    overwrite: bool,
    processes: int,
    part: str | None,
    ray: str | None,
) -> None:
    from restain.cli.progress import progress_bar
    from restain.errors import OutputError, RestainError
    from restain.folders import is_image
    from restain.slides.kinds import is_slide
    from restain.staining.archive import stain_slides
    from restain.staining.inputs import SlideJob, find_slides, passed_over, shard
    from restain.staining.settings import SlideReport

    if is_image(out):
        raise OutputError(f"{out}: a stained slide is an OME-TIFF; give a name that ends in .ome.tif, or a folder")
    jobs = find_slides(inputs, out, ending)
    if part:
        jobs = shard(jobs, part)
    with progress_bar() as progress:
        task = progress.add_task("slides", total=len(jobs))

        def show(job: SlideJob, result: SlideReport | RestainError) -> None:
            became, notes = ("failed", []) if isinstance(result, RestainError) else ("is done", result.notes)
            progress.update(task, advance=1, description=f"slides; {job.source.name} {became}")
            for note in notes:
                progress.console.print(f"{job.source.name}: {note}", markup=False, highlight=False, soft_wrap=True)

        def wait(held: list[SlideJob]) -> None:
            names = ", ".join(job.source.name for job in held)
            words = f"waiting for another process, which stains {names}"
            progress.console.print(words, markup=False, highlight=False, soft_wrap=True)

        with _pool(ray, processes, device) as pool:
            outcome = stain_slides(
                model, jobs, settings, pool=pool, overwrite=overwrite, extra=extra, on_slide=show, on_wait=wait
            )
    for reason in outcome.failures.values():
        typer.echo(f"restain: not stained: {' '.join(str(reason).split())}", err=True)
    if images := passed_over(inputs, is_slide):
        typer.echo(f"{images} plain images in the same folders are not stained; see restain stain", err=True)
    skipped = sum(report.skipped for report in outcome.reports)
    already = f", {skipped} of them earlier" if skipped else ""
    typer.echo(f"{len(outcome.reports)} of {len(jobs)} slides are stained{already}, in {out}")
    if outcome.failures:
        raise typer.Exit(1)


def _pool(ray: str | None, processes: int, device: str | None) -> "AbstractContextManager[Pool]":
    from restain.cli.device import usable_device
    from restain.workers.pool import Processes

    if ray is None:
        return nullcontext(Processes(processes, usable_device(device)))
    from restain.workers.ray import connected

    return connected(ray, processes, device)
