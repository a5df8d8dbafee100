"""`restain stain`: H&E images and slides to virtual IHC."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from restain.staining.settings import SlideSettings
    from restain.staining.slide import Extra

SLIDES = "Whole slides"


def command(
    context: typer.Context,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="H&E images, slides, folders of them, or a CSV of slides.", metavar="INPUT", show_default=False
        ),
    ],
    model: Annotated[
        Path,
        typer.Option(
            help="Checkpoint of a generator, or the name of one that comes with restain (restain models).",
            metavar="FILE|NAME",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the results, or for one slide a file that ends in .ome.tif.",
            metavar="DIR|FILE",
            show_default=False,
        ),
    ],
    tile_px: Annotated[
        int | None,
        typer.Option(
            help="Side of a tile; larger images are stained in tiles.",
            min=1,
            show_default="1024; on a CPU less where that takes much memory",
        ),
    ] = None,
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are there.")] = False,
    published_test: Annotated[
        bool,
        typer.Option(
            "--published-test",
            help="pix2pix and PyramidP2P as their authors test them: batch norm by the image at hand, dropout on. "
            "For images up to one tile.",
        ),
    ] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Map where not to believe the result; 8 more passes.")] = False,
    mpp: Annotated[
        float | None,
        typer.Option(
            help="Micrometres per pixel of a slide that has none or wrong ones.",
            show_default="what the slide says",
            rich_help_panel=SLIDES,
        ),
    ] = None,
    model_mpp: Annotated[
        float | None,
        typer.Option(
            help="Micrometres per pixel that the model was trained at.",
            show_default="what the model says",
            rich_help_panel=SLIDES,
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            help="Stain only this part, in px of the slide's first level.",
            metavar="X,Y,W,H",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
    rois: Annotated[
        Path | None,
        typer.Option(
            help="Stain only the polygons in this GeoJSON.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
    no_tissue_mask: Annotated[
        bool, typer.Option("--no-tissue-mask", help="Stain the glass as well.", rich_help_panel=SLIDES)
    ] = False,
    compression: Annotated[
        Literal["jpeg", "compact", "lossless"],
        typer.Option(help="JPEG in RGB, JPEG with colour at half size, or deflate.", rich_help_panel=SLIDES),
    ] = "jpeg",
    quality: Annotated[int, typer.Option(help="Of JPEG, 1 to 100.", rich_help_panel=SLIDES)] = 90,
    batch: Annotated[
        int | None,
        typer.Option(
            help="Tiles that go through the network together.",
            min=1,
            show_default="1 on a CPU, 2 on a GPU",
            rich_help_panel=SLIDES,
        ),
    ] = None,
    bfloat16: Annotated[
        bool,
        typer.Option(
            "--bfloat16", help="Compute in half precision, for GPUs and CPUs with AMX.", rich_help_panel=SLIDES
        ),
    ] = False,
    engine: Annotated[
        Literal["torch", "openvino"],
        typer.Option(help="What runs the network; openvino pays on a CPU with --bfloat16.", rich_help_panel=SLIDES),
    ] = "torch",
    workers: Annotated[
        int, typer.Option(help="Slides at the same time, each in its process.", min=1, rich_help_panel=SLIDES)
    ] = 1,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Only every n-th slide from the i-th on, for many machines.",
            metavar="I/N",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Stain on Ray, each slide on a GPU or CPU of its own: the address of a cluster, or 'local'.",
            metavar="ADDRESS|local",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
) -> None:
    """Stain H&E virtually: images become PNGs of the same name, slides become pyramidal OME-TIFFs."""
    from restain.cli.device import usable_device
    from restain.errors import InputError
    from restain.models import find_model
    from restain.staining.jobs import holds_slides, is_slide
    from restain.staining.settings import SlideSettings

    model = find_model(model)
    one_slide = out.name.lower().endswith((".ome.tif", ".ome.tiff"))
    if one_slide:
        for option, given in (("--ray", ray), ("--shard", shard), ("--workers", workers > 1)):
            if given:
                raise InputError(f"{option} is for many slides, with a folder as --out; {out} is one file")
    elif not any(map(holds_slides, inputs)):
        _refuse_slide_options(context)
        _stain_images(
            inputs,
            model,
            out,
            tile_px or 1024,
            halo_px,
            norm,
            usable_device(device),
            overwrite,
            trust,
            published_test,
        )
        return
    if published_test:
        raise InputError("--published-test looks at images as wholes, which slides are too large for; leave it out")
    from restain.slides.codec import Codec
    from restain.staining.policies import find_norm

    settings = SlideSettings(
        norm=find_norm(norm),
        codec=Codec(compression, quality),
        tile_px=tile_px or SlideSettings.tile_px,
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
    if not one_slide:
        _stain_slides(inputs, model, out, settings, device, overwrite, trust, workers, shard, ray)
    elif len(inputs) > 1 or inputs[0].is_dir():
        raise InputError(f"{out} is one file, but several slides were given; give a folder with --out")
    elif not is_slide(inputs[0]) and inputs[0].suffix.lower() == ".csv":
        raise InputError(f"{out} is one file, but {inputs[0]} lists slides; give a folder with --out")
    else:
        _stain_slide(inputs[0], model, out, settings, usable_device(device), overwrite, trust)


def _slide_maps() -> "Extra":
    from restain.trust.slide import SlideMaps

    return SlideMaps()


def _refuse_slide_options(context: typer.Context) -> None:
    """Plain images know nothing of what is said about slides."""
    from restain.errors import InputError

    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if getattr(parameter, "rich_help_panel", None) == SLIDES
        and context.params[parameter.name or ""] != parameter.default
    ]
    if given:
        raise InputError(
            f"{', '.join(given)}: for whole slides, and the inputs hold none; leave that out, or stain one image as a"
            " slide (--out NAME.ome.tif)"
        )


def _parse_region(text: str | None) -> tuple[int, int, int, int] | None:
    from restain.errors import InputError

    if text is None:
        return None
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"--region {text}: expected x,y,width,height in px, such as 0,0,4096,4096") from error
    return x, y, width, height


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _stain_slide(
    source: Path, model: Path, out: Path, settings: "SlideSettings", place: str, overwrite: bool, trust: bool
) -> None:
    from restain.staining.model import load_model
    from restain.staining.slide import stain_slide

    loaded = load_model(model, place)
    with _progress() as progress:
        task = progress.add_task("reading the slide", total=None)

        def show(done: int, total: int, done_mpx: float, total_mpx: float) -> None:
            rate = progress.tasks[0].speed or 0
            words = f"{done} of {total} tiles, {done_mpx:.0f} of {total_mpx:.0f} megapixels, {rate:.2f} per second"
            progress.update(task, completed=done_mpx, total=total_mpx, description=words)

        extra = _slide_maps() if trust else None
        report = stain_slide(loaded, source, out, settings, overwrite=overwrite, extra=extra, on_progress=show)
    for note in report.notes:
        typer.echo(f"{source.name}: {note}", err=True)
    typer.echo(f"{out} was there already, from the same slide, model and settings" if report.skipped else f"{out}")


def _stain_slides(
    inputs: list[Path],
    model: Path,
    out: Path,
    settings: "SlideSettings",
    device: str | None,
    overwrite: bool,
    trust: bool,
    workers: int,
    part: str | None,
    ray: str | None,
) -> None:
    from restain.cli.device import usable_device
    from restain.errors import OutputError, RestainError
    from restain.folders import is_image
    from restain.staining.archive import stain_slides
    from restain.staining.jobs import SlideJob, find_slides, images_between, shard
    from restain.staining.settings import SlideReport

    if is_image(out):
        raise OutputError(f"{out}: a stained slide is an OME-TIFF; give a name that ends in .ome.tif, or a folder")
    jobs = find_slides(inputs, out)
    if part:
        jobs = shard(jobs, part)
    with _progress() as progress:
        task = progress.add_task("slides", total=len(jobs))

        def show(job: SlideJob, result: SlideReport | RestainError) -> None:
            became, notes = ("failed", []) if isinstance(result, RestainError) else ("is done", result.notes)
            progress.update(task, advance=1, description=f"slides; {job.source.name} {became}")
            for note in notes:
                progress.console.print(f"{job.source.name}: {note}", markup=False, highlight=False, soft_wrap=True)

        if ray:
            from restain.staining.ray import stain_on_ray

            run = partial(stain_on_ray, address=ray, device=device)
        else:
            run = partial(stain_slides, device=usable_device(device))
        outcome = run(
            model,
            jobs,
            settings,
            workers=workers,
            overwrite=overwrite,
            extra=_slide_maps() if trust else None,
            on_slide=show,
        )
    for reason in outcome.failures.values():
        typer.echo(f"restain: not stained: {' '.join(str(reason).split())}", err=True)
    if passed_over := images_between(inputs):
        typer.echo(f"{passed_over} plain images in the same folders are not stained; give them on their own", err=True)
    skipped = sum(report.skipped for report in outcome.reports)
    already = f", {skipped} of them earlier" if skipped else ""
    typer.echo(f"{len(outcome.reports)} of {len(jobs)} slides are stained{already}, in {out}")
    if outcome.failures:
        raise typer.Exit(1)


def _stain_images(
    inputs: list[Path],
    model: Path,
    out: Path,
    tile_px: int,
    halo_px: int | None,
    norm: str,
    place: str,
    overwrite: bool,
    trust: bool,
    published_test: bool,
) -> None:
    from restain.checkpoint import load_generator, read_info
    from restain.staining.images import stain, stain_files
    from restain.staining.policies import check_norm, find_norm

    generator = load_generator(model, place, as_published_test=published_test)
    policy = find_norm(norm)
    check_norm(policy, read_info(model).sha256)
    maps = None
    if trust:
        from restain.trust.familiarity import familiarity_of
        from restain.trust.images import ImageMaps
        from restain.trust.maps import check_turnable

        check_turnable(policy)
        again = partial(stain, generator, tile_px=tile_px, halo_px=halo_px, norm=policy)
        maps = ImageMaps(again, familiarity_of(read_info(model).extra))
    with _progress() as progress:
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

    if maps:
        for table in maps.save():
            typer.echo(f"{table} tells how far to believe each")
    for reason in failures.values():
        typer.echo(f"restain: not stained: {reason}", err=True)
    typer.echo(f"{len(written)} of {len(written) + len(failures)} images are stained, in {out}")
    if failures:
        raise typer.Exit(1)
