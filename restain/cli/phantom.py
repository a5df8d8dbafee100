"""`restain phantom`: pairs of drawn tiles with a known truth, or a drawn slide."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from restain.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from rich.progress import Progress

    from restain.data.phantom import PhantomSettings, PhantomSlide

TILES = "Pairs of tiles"
SLIDES = "A whole slide"


def command(
    out: Annotated[
        Path | None, typer.Argument(help="A new or empty folder, for pairs.", metavar="[OUT]", show_default=False)
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="How many pairs.", show_default=False, rich_help_panel=TILES)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of a tile or of the slide in px, at least 64.", show_default="512, of a slide 20000"),
    ] = None,
    marker: Annotated[
        Literal["membrane", "nuclear"], typer.Option(help="Where positive cells are brown: as HER2, or as Ki67 and ER.")
    ] = "membrane",
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel, 0.1 to 2.")] = 0.5,
    seed: Annotated[int, typer.Option(help="The same seed draws the same.")] = 0,
    displacement: Annotated[
        float,
        typer.Option(help="Longest displacement of the IHC, as a share of the side, 0 to 0.25.", rich_help_panel=TILES),
    ] = 48 / 512,
    validation: Annotated[
        float,
        typer.Option(help="Pairs kept for validation: a share below 1, or a number of pairs.", rich_help_panel=TILES),
    ] = 0.2,
    slide: Annotated[
        Path | None,
        typer.Option(
            help="Draw one slide instead of pairs, islands of tissue in H&E, to this *.ome.tif.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
    ihc: Annotated[
        Path | None,
        typer.Option(
            help="The true IHC of the same section, in register, to this *.ome.tif.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
    coverage: Annotated[
        float, typer.Option(help="Share of the slide that is tissue, above 0 and below 1.", rich_help_panel=SLIDES)
    ] = 0.3,
) -> None:
    """Draw pairs of H&E and IHC tiles in the layout of MIST, or a whole slide; cells and true stain are known."""
    from restain.data.phantom import PhantomSettings, PhantomSlide

    if slide is not None:
        if out is not None or pairs is not None:
            raise ConfigError("OUT and --pairs draw pairs, --slide draws a slide; give one or the other")
        _draw_slide(slide, ihc, PhantomSlide(seed, 20_000 if size is None else size, marker, mpp, coverage))
    elif out is None or pairs is None:
        raise ConfigError("give OUT and --pairs to draw pairs, or --slide FILE.ome.tif to draw a slide")
    elif ihc is not None:
        raise ConfigError("--ihc is drawn beside a --slide; of pairs, both sides are drawn anyway")
    else:
        settings = PhantomSettings(512 if size is None else size, marker, mpp, displacement)
        _draw_pairs(out, pairs, _held_out(validation, pairs), seed, settings)


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _draw_pairs(out: Path, pairs: int, held_out: int, seed: int, settings: "PhantomSettings") -> None:
    from restain.data.phantom import write_pairs

    with _progress() as progress:
        task = progress.add_task("pairs", total=pairs)

        def show(done: int, total: int) -> None:
            rate = progress.tasks[0].speed or 0
            progress.update(task, completed=done, total=total, description=f"pairs, {rate:.1f} per second")

        write_pairs(out, pairs, validation=held_out, seed=seed, settings=settings, on_progress=show)
    counts = f"{pairs - held_out} pairs to train and {held_out} to validate"
    typer.echo(f"{out / 'TrainValAB'} holds {counts}, with the truth beside them")


def _draw_slide(he: Path, ihc: Path | None, slide: "PhantomSlide") -> None:
    from importlib.metadata import version

    from restain.slides.tiff import Description
    from restain.slides.writer import write_slide

    wanted = [(he, "H&E", slide.he, slide.he_glass)]
    if ihc is not None:
        wanted.append((ihc, f"{slide.tissue.marker} IHC", slide.ihc, slide.ihc_glass))
    for path, *_ in wanted:
        if not path.name.lower().endswith((".ome.tif", ".ome.tiff")):
            raise OutputError(f"{path}: a slide is an OME-TIFF; give a name that ends in .ome.tif")
        if path.exists():
            raise OutputError(f"{path} exists; choose another name, or remove it")
    if ihc is not None and ihc.resolve() == he.resolve():
        raise OutputError(f"--slide and --ihc are both {he}; give each a file of its own")
    job = f"phantom {version('restain')} {slide}"
    with _progress() as progress:
        task = progress.add_task("tiles", total=None)
        for nth, (path, stain, tile, glass) in enumerate(wanted):

            def show(done: int, total: int, before: int = nth) -> None:
                rate = progress.tasks[0].speed or 0
                words = f"tiles, {rate:.1f} per second"
                progress.update(task, completed=before * total + done, total=len(wanted) * total, description=words)

            provenance = {"software": f"restain {version('restain')}", "drawn": str(slide)}
            description = Description(f"drawn tissue, {stain}", slide.tissue.mpp, stain, provenance=provenance)
            size = (slide.size_px, slide.size_px)
            write_slide(path, size, tile, description, background=glass, job=f"{job} {stain}", on_progress=show)
    typer.echo("\n".join(str(path) for path, *_ in wanted))


def _held_out(validation: float, pairs: int) -> int:
    """Number of pairs for validation: at least one of two or more, unless 0 is asked for."""
    if validation < 0 or validation > pairs or (validation >= 1 and validation != int(validation)):
        raise ConfigError(f"--validation {validation:g}: expected a share below 1, or a whole number up to {pairs}")
    if validation >= 1:
        return int(validation)
    least = 1 if validation > 0 and pairs > 1 else 0
    return max(round(validation * pairs), least)
