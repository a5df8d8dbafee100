"""`restain evaluate`: virtual images against real ones."""

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from restain.cli.options import CELLS, CasesOption, DeviceOption, ExtractorsOption, NucleusOption, StainVectorsOption

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.progress import Progress, TaskID

    from restain.metrics import Evaluation, Metric
    from restain.metrics.tiles import TilePair


NETWORKS = "FID, KID and LPIPS"
SEAMS = "Seams"


def command(
    virtual: Annotated[
        list[Path],
        typer.Option(help="Folder of virtual images; once for each method.", metavar="DIR", show_default=False),
    ],
    real: Annotated[
        Path,
        typer.Option(help="Folder of real images, same names and sizes.", metavar="DIR", show_default=False),
    ],
    he: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the H&E images, for metrics of structure and for the report.",
            metavar="DIR",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for evaluation.json.", metavar="DIR", show_default="not written"),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="File for the report, one HTML page.", metavar="FILE", show_default="not written"),
    ] = None,
    cases: CasesOption = None,
    marker: Annotated[
        Literal["nuclear", "membrane"] | None,
        typer.Option(
            help="Count cells too, with DAB in the nucleus (Ki67, ER) or on the membrane (HER2); needs --mpp.",
            show_default="cells are not counted",
            rich_help_panel=CELLS,
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            help="Micrometres per pixel of the tiles: compare positive regions as objects, and cells with --marker.",
            show_default="neither",
            rich_help_panel=CELLS,
        ),
    ] = None,
    nucleus_um: NucleusOption = 6.0,
    seams: Annotated[
        int | None,
        typer.Option(
            help="Measure seams in images that were stained in tiles of this side, in px.",
            metavar="TILE_PX",
            min=4,
            show_default="not measured",
            rich_help_panel=SEAMS,
        ),
    ] = None,
    stain_vectors: StainVectorsOption = "reference",
    preset: Annotated[
        str,
        typer.Option(
            help="How FID and KID are computed: default, paper-1024 or torch-fidelity.", rich_help_panel=NETWORKS
        ),
    ] = "default",
    inception_weights: Annotated[
        Path | None,
        typer.Option(
            help="File of Inception's weights, for FID and KID.",
            metavar="FILE",
            show_default="torch's cache",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    lpips_weights: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the weights for LPIPS.",
            metavar="DIR",
            show_default="torch's cache",
            rich_help_panel=NETWORKS,
        ),
    ] = None,
    extractor: ExtractorsOption = None,
    device: DeviceOption = None,
) -> None:
    """Compare virtual images with real ones of the same name: similarity, amount and place of DAB, and cells."""
    from rich.console import Console
    from rich.markup import escape

    from restain.cli.device import usable_device
    from restain.cli.entries import entry
    from restain.cli.figures import print_figures
    from restain.cli.progress import progress_bar
    from restain.data.cases import cases_by_pattern
    from restain.image import check_output, make_folder
    from restain.metrics import evaluate, find_judges, tabulate
    from restain.metrics.colours import stain_vectors_of
    from restain.metrics.comparison import CAUTION, notes
    from restain.metrics.regions import region_metrics
    from restain.metrics.report import write_report
    from restain.metrics.seams import seam_metrics

    cells = _cell_metrics(marker, mpp, nucleus_um)
    extra = cells | (region_metrics(mpp) if mpp else {}) | (seam_metrics(seams) if seams else {})
    place = usable_device(device)
    judges = find_judges(inception_weights, lpips_weights, [entry(words) for words in extractor or ()], preset, place)
    case = cases_by_pattern(cases) if cases else None
    methods = _names(virtual)
    tiles = _pairs(methods, real, he, case)
    _say_what_is_passed_over(*methods.values(), real)
    origin = f"what {cases} finds in a name" if cases else ""
    if not case:
        case, origin = _listed_cases(real, [tile.name for tile in next(iter(tiles.values()))])
    if html is not None:
        check_output(html, ".html")
        make_folder(html.parent)
    vectors = stain_vectors_of(real) if stain_vectors == "estimated" else None
    found = {}
    with progress_bar(counted=True) as progress:
        for name, folder in methods.items():
            task = progress.add_task(escape(name), total=None)
            found[name] = evaluate(
                folder,
                real,
                out if out is None or len(methods) == 1 else out / name,
                partial(_show, progress, task),
                he=he,
                judges=judges,
                preset=preset,
                cases=case,
                extra=extra,
                stain_vectors=vectors,
                tiles=tiles[name],
            )

    print_figures(tabulate(found), Console())
    typer.echo(CAUTION)
    for note in notes(found):
        typer.echo(f"Left out: {note}")
    if not cells:
        typer.echo("Left out: scores of cells, which need --marker and --mpp.")
    if html is not None:
        write_report(
            html, found, {"Preset": preset, **({"Cases": origin} if case else {}), **_viewer_command(found, mpp)}
        )
        typer.echo(f"{html} is the report.")
    if out is not None:
        place_of_json = out / "evaluation.json" if len(methods) == 1 else f"{out}/*/evaluation.json"
        typer.echo(f"{place_of_json} holds the figures, their protocols and every tile.")
    if html is None and out is None:
        typer.echo("Give --out or --html to write the protocols behind the fingerprints.")


def _viewer_command(found: "Mapping[str, Evaluation]", mpp: float | None) -> dict[str, str]:
    """The command that shows the first method's worst tile by the amount of stain, for the report; none without H&E."""
    first, *others = found.values()
    worst = int((first.columns["dab_virtual"] - first.columns["dab_real"]).abs().argmax())
    tile = first.tiles[worst]
    if tile.he is None:
        return {}
    virtual = [tile.virtual, *(other.tiles[other.names.index(tile.name)].virtual for other in others)]
    shown = [word for path in virtual for word in ("--virtual", str(path))]
    scale = "MPP" if mpp is None else f"{mpp:g}"
    words = ["restain", "view", str(tile.he), *shown, "--ihc", str(tile.real), "--mpp", scale]
    return {"View the worst tile": shlex.join(words)}


def _pairs(
    methods: "Mapping[str, Path]", real: Path, he: Path | None, case: "Callable[[str], str] | None"
) -> "dict[str, list[TilePair]]":
    """The pairs of each method; errors in any of them are reported before the first is measured."""
    from restain.errors import InputError
    from restain.metrics.tiles import pair_images

    found = {name: pair_images(folder, real, he) for name, folder in methods.items()}
    formats: dict[str, Path] = {}
    for name, tiles in found.items():
        if case:
            for tile in tiles:
                case(tile.name)
        formats.setdefault("/".join(sorted({tile.virtual.suffix.lower()[1:] for tile in tiles})), methods[name])
    if len(formats) > 1:
        held = " but ".join(f"{folder} holds {words}" for words, folder in formats.items())
        raise InputError(
            f"{held}; methods in one table need the same format, so save them in one format or evaluate them separately"
        )
    return found


def _listed_cases(real: Path, names: list[str]) -> "tuple[Callable[[str], str] | None, str]":
    """The cases that `pairs.csv` gives, and where they come from."""
    from restain.data.cases import cases_in_list, find_list
    from restain.errors import RestainError

    listed = find_list(real)
    if listed is None:
        return None, ""
    try:
        case = cases_in_list(listed, real, names)
        reason = f"it does not give a case for every image in {real}"
    except RestainError as error:
        case, reason = None, str(error)
    if case:
        typer.echo(f"Intervals are over the cases in {listed}.", err=True)
    else:
        typer.echo(f"Intervals are over tiles: the cases in {listed} are not used, because {reason}.", err=True)
    return case, f"from {listed.name}"


def _say_what_is_passed_over(*folders: Path) -> None:
    from restain.folders import some, subfolders_with_images

    for folder in folders:
        if below := subfolders_with_images(folder):
            typer.echo(f"{folder}: images in {some(below)} are ignored; give each folder separately", err=True)


def _show(progress: "Progress", task: "TaskID", done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _cell_metrics(
    marker: Literal["nuclear", "membrane"] | None, mpp: float | None, nucleus_um: float
) -> "dict[str, Metric]":
    from restain.errors import InputError
    from restain.metrics.nuclei import nuclei_metrics
    from restain.quantify import QuantifySettings

    if marker is None:
        return {}
    if mpp is None:
        raise InputError("--marker counts cells, which needs the resolution of the images; give --mpp, such as 0.5")
    return nuclei_metrics(QuantifySettings(mpp, marker, nucleus_um))


def _names(folders: list[Path]) -> dict[str, Path]:
    """A name for each method: that of its folder, with as many parents as needed to make it unique."""
    if len(folders) == 1:
        return {"Virtual": folders[0]}
    for depth in range(1, max(len(folder.resolve().parts) for folder in folders)):
        names = ["/".join(folder.resolve().parts[-depth:]) for folder in folders]
        if len(set(names)) == len(names):
            return dict(zip(names, folders, strict=True))
    from restain.errors import InputError

    raise InputError(f"--virtual {folders[0]} was given twice")
