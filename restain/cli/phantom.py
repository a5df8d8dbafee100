"""`restain phantom`: pairs of drawn tiles with a known truth, or a drawn slide."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from restain.cli.options import MarkerOption
from restain.cli.progress import progress_bar
from restain.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from restain.data.phantom import PhantomNeighbour, PhantomSettings, PhantomSlide
    from restain.slides.tiff import Description

TILES = "Pairs of tiles"
SLIDES = "A whole slide"
NEIGHBOUR = "Its neighbour"

_TILE_PX = 512
_LANDMARKS = 100


def command(
    out: Annotated[
        Path | None, typer.Argument(help="New or empty folder for pairs of tiles.", metavar="[OUT]", show_default=False)
    ] = None,
    pairs: Annotated[
        int | None, typer.Option(min=1, help="Number of pairs.", show_default=False, rich_help_panel=TILES)
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(help="Side of a tile or of the slide, in px, at least 64.", show_default="512; 20000 for a slide"),
    ] = None,
    marker: MarkerOption = "membrane",
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel, 0.1 to 2.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed; the same one draws the same tissue.")] = 0,
    displacement: Annotated[
        float,
        typer.Option(help="Largest displacement of the IHC, as a share of the side, 0 to 0.25.", rich_help_panel=TILES),
    ] = 48 / 512,
    validation: Annotated[
        float,
        typer.Option(help="Pairs kept for validation: a share below 1, or a number.", rich_help_panel=TILES),
    ] = 0.2,
    slide: Annotated[
        Path | None,
        typer.Option(
            help="Draw an H&E slide with islands of tissue instead of pairs, to this *.ome.tif.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
    ihc: Annotated[
        Path | None,
        typer.Option(
            help="Draw the true IHC of the same section, registered with the H&E, to this *.ome.tif.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
    coverage: Annotated[
        float, typer.Option(help="Share of the slide that is tissue, above 0 and below 1.", rich_help_panel=SLIDES)
    ] = 0.3,
    laboratory: Annotated[
        int | None,
        typer.Option(
            help="Seed of one laboratory that stains the slide and its neighbour.",
            show_default="each has its own",
            rich_help_panel=SLIDES,
        ),
    ] = None,
    neighbour: Annotated[
        Path | None,
        typer.Option(
            help="Draw the neighbouring section as an IHC slide, to this *.ome.tif, with its true transform.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=NEIGHBOUR,
        ),
    ] = None,
    neighbour_mpp: Annotated[
        float | None,
        typer.Option(
            help="Micrometres per pixel of the neighbour.", show_default="as the H&E", rich_help_panel=NEIGHBOUR
        ),
    ] = None,
    turn: Annotated[
        float, typer.Option(help="Rotation of the neighbour, in degrees clockwise.", rich_help_panel=NEIGHBOUR)
    ] = 4.0,
    mirror: Annotated[
        bool,
        typer.Option(
            "--mirror", help="Mirror the neighbour, as if its section lay upside down.", rich_help_panel=NEIGHBOUR
        ),
    ] = False,
    scale: Annotated[
        float,
        typer.Option(
            help="Factor by which the resolution in the neighbour's file is wrong, 0.25 to 4.",
            rich_help_panel=NEIGHBOUR,
        ),
    ] = 1.0,
    bend: Annotated[
        float,
        typer.Option(help="Largest shift of the neighbour's smooth deformation, in µm.", rich_help_panel=NEIGHBOUR),
    ] = 40.0,
    depth: Annotated[
        float,
        typer.Option(
            help="How much deeper the neighbour was cut, in µm; 0 is the same section, stained again.",
            rich_help_panel=NEIGHBOUR,
        ),
    ] = 4.0,
    control: Annotated[
        bool, typer.Option("--control", help="Add control tissue to the neighbour.", rich_help_panel=NEIGHBOUR)
    ] = False,
    pen: Annotated[
        bool, typer.Option("--pen", help="Add pen marks to both slides.", rich_help_panel=NEIGHBOUR)
    ] = False,
    black_edge: Annotated[
        bool, typer.Option("--black-edge", help="Add a black edge to the neighbour's scan.", rich_help_panel=NEIGHBOUR)
    ] = False,
) -> None:
    """Draw synthetic tissue: pairs of H&E and IHC tiles in the layout of MIST, or whole slides, with the truth."""
    from restain.data.phantom import NeighbourSettings, PhantomNeighbour, PhantomSettings, PhantomSlide

    if slide is not None:
        if out is not None or pairs is not None:
            raise ConfigError("OUT and --pairs draw pairs, --slide draws a slide; give one or the other")
        drawn = PhantomSlide(
            seed,
            20_000 if size is None else size,
            marker,
            mpp,
            coverage,
            framed=neighbour is not None,
            laboratory=laboratory,
        )
        beside = None
        if neighbour is not None:
            lie = NeighbourSettings(
                mpp=neighbour_mpp, angle=turn, mirror=mirror, scale=scale, bend_um=bend, depth_um=depth,
                control=control, pen=pen, black_edge=black_edge,
            )  # fmt: skip
            beside = PhantomNeighbour(drawn, lie)
        _draw_slides(slide, ihc, neighbour, drawn, beside)
    elif out is None or pairs is None:
        raise ConfigError("give OUT and --pairs to draw pairs, or --slide FILE.ome.tif to draw a slide")
    elif ihc is not None or neighbour is not None:
        option = "--ihc" if ihc is not None else "--neighbour"
        raise ConfigError(f"{option} needs --slide; pairs always have both sides")
    else:
        settings = PhantomSettings(512 if size is None else size, marker, mpp, displacement)
        _draw_pairs(out, pairs, _held_out(validation, pairs), seed, settings)


def _draw_pairs(out: Path, pairs: int, held_out: int, seed: int, settings: "PhantomSettings") -> None:
    from restain.data.phantom import write_pairs

    with progress_bar(counted=True) as progress:
        task = progress.add_task("pairs", total=pairs)

        def show(done: int, total: int) -> None:
            rate = progress.tasks[0].speed or 0
            progress.update(task, completed=done, total=total, description=f"pairs, {rate:.1f} per second")

        write_pairs(out, pairs, validation=held_out, seed=seed, settings=settings, on_progress=show)
    counts = f"{pairs - held_out} pairs to train and {held_out} to validate"
    typer.echo(f"{out / 'TrainValAB'} holds {counts}, with the truth next to them")


def _draw_slides(
    he: Path, ihc: Path | None, neighbour: Path | None, slide: "PhantomSlide", beside: "PhantomNeighbour | None"
) -> None:
    from importlib.metadata import version

    from restain.slides.tiff import Description
    from restain.slides.writer import write_slide

    provenance = {"software": f"restain {version('restain')}", "drawn": str(slide)}
    if beside is not None:
        provenance["neighbour"] = str(beside.settings)
    side, mpp, marker = (slide.size_px, slide.size_px), slide.tissue.mpp, f"{slide.tissue.marker} IHC"

    def described(stain: str, mpp: float) -> Description:
        return Description(f"drawn tissue, {stain}", mpp, stain, provenance=provenance)

    wanted = [(he, described("H&E", mpp), beside.he if beside else slide.he, slide.he_glass, side)]
    if ihc is not None:
        wanted.append((ihc, described(marker, mpp), slide.ihc, slide.ihc_glass, side))
    if neighbour is not None and beside is not None:
        wanted.append((neighbour, described(marker, beside.mpp), beside.ihc, beside.glass, beside.size))
    _refuse_names({"--slide": he, "--ihc": ihc, "--neighbour": neighbour})
    whole = [_is_drawn(path, size, description) for path, description, _, _, size in wanted]
    job = f"phantom {version('restain')} {slide}" + (f" {beside.settings}" if beside else "")
    tiles = [0 if is_whole else _tiles_of(size) for is_whole, (*_, size) in zip(whole, wanted, strict=True)]
    with progress_bar(counted=True) as progress:
        task = progress.add_task("tiles", total=sum(tiles))
        for nth, (path, description, tile, glass, size) in enumerate(wanted):

            def show(done: int, _: int, before: int = sum(tiles[:nth])) -> None:
                rate = progress.tasks[0].speed or 0
                progress.update(task, completed=before + done, description=f"tiles, {rate:.1f} per second")

            if whole[nth]:
                typer.echo(f"{path} exists already and is kept.", err=True)
                continue
            key = f"{job} {path.name} {description.stain}"
            write_slide(path, size, tile, description, background=glass, job=key, on_progress=show)
    typer.echo("\n".join(str(path) for path, *_ in wanted))
    if neighbour is not None and beside is not None:
        for path in _write_truth(he, neighbour, slide, beside):
            typer.echo(str(path))


def _refuse_names(given: dict[str, Path | None]) -> None:
    """Check that the slides have different names."""
    taken: dict[Path, str] = {}
    for option, path in given.items():
        if path is None:
            continue
        if not path.name.lower().endswith((".ome.tif", ".ome.tiff")):
            raise OutputError(f"{path}: a slide is an OME-TIFF; give a name that ends in .ome.tif")
        if other := taken.get(path.resolve()):
            raise OutputError(f"{other} and {option} are both {path}; give different files")
        taken[path.resolve()] = option


def _is_drawn(path: Path, size: tuple[int, int], description: "Description") -> bool:
    """Whether the same slide was drawn by an earlier run that was stopped at another one.

    Raises:
        OutputError: the file exists and is another slide.
    """
    from restain.slides.sources import image_description
    from restain.slides.tiff import ome_xml

    if not path.exists():
        return False
    if image_description(path) != ome_xml(size, description).decode("ascii"):
        raise OutputError(f"{path} exists and is another slide; choose another name, or remove it")
    return True


def _tiles_of(size: tuple[int, int]) -> int:
    return -(-size[0] // _TILE_PX) * -(-size[1] // _TILE_PX)


def _write_truth(he: Path, ihc: Path, slide: "PhantomSlide", beside: "PhantomNeighbour") -> list[Path]:
    """Write the true transform and landmarks beside the slide of the neighbour."""
    from restain.registration.field import Affine, Raster, field_of
    from restain.registration.landmarks import Landmarks, write_acrobat, write_anhir
    from restain.registration.transform import Scan, Transform

    scans = (
        Scan(he.name, (slide.size_px, slide.size_px), slide.tissue.mpp),
        Scan(ihc.name, beside.size, beside.mpp),
    )
    box = Raster(0, 0, slide.size_px, slide.size_px, slide.tissue.mpp)
    bend = field_of(lambda points: points + beside.bend(points), box, beside.bend_pitch_um / 4)
    stem = ihc.name[: ihc.name.lower().rindex(".ome.tif")]
    files = [
        ihc.with_name(f"{stem}.{ending}")
        for ending in ("transform.json", "landmarks-he.csv", "landmarks-ihc.csv", "landmarks.csv")
    ]
    Transform(*scans, Affine(beside.affine), bend).save(files[0])
    landmarks = Landmarks(*beside.landmarks(_LANDMARKS))
    write_anhir(files[1], landmarks.he, scans[0])
    write_anhir(files[2], landmarks.ihc, scans[1])
    write_acrobat(files[3], landmarks, *scans, antibody=slide.tissue.marker)
    return files


def _held_out(validation: float, pairs: int) -> int:
    """Number of pairs for validation: at least one of two or more, unless 0 is asked for."""
    if validation < 0 or validation > pairs or (validation >= 1 and validation != int(validation)):
        raise ConfigError(f"--validation {validation:g}: expected a share below 1, or a whole number up to {pairs}")
    if validation >= 1:
        return int(validation)
    least = 1 if validation > 0 and pairs > 1 else 0
    return max(round(validation * pairs), least)
