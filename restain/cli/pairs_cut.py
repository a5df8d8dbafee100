"""`restain pairs cut`: pairs of tiles in register, from two slides or a list of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from restain.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from restain.registration.cut import CutReport
    from restain.registration.jobs import SlidePair

BARS = "Which tiles are kept"
LIE = "How the sections lie"


def command(
    slides: Annotated[
        list[Path],
        typer.Argument(
            help="The H&E slide and the IHC slide; or one CSV with the columns he, ihc, case, grade, split.",
            metavar="HE IHC",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the data set, in the layout of MIST.", show_default=False)],
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel of the tiles.")] = 0.5,
    size: Annotated[int, typer.Option(help="Side of a tile in px.")] = 512,
    step: Annotated[
        int | None, typer.Option(help="Distance between tiles, in px.", show_default="the side of a tile")
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the cases kept for validation, if the CSV has no split.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed for the choice of these cases.")] = 0,
    transform: Annotated[
        Path | None,
        typer.Option(
            help="Use this transform, do not register: our JSON, or a matrix of QuPath or VALIS in px, H&E to IHC.",
            metavar="FILE",
            show_default=False,
            rich_help_panel=LIE,
        ),
    ] = None,
    inverse: Annotated[
        bool,
        typer.Option("--transform-inverse", help="The matrix maps the IHC to the H&E.", rich_help_panel=LIE),
    ] = False,
    mirror: Annotated[bool, typer.Option(help="Whether a section may be mirrored.", rich_help_panel=LIE)] = True,
    any_scale: Annotated[
        bool,
        typer.Option(help="Whether the recorded resolution may be wrong, up to twofold.", rich_help_panel=LIE),
    ] = True,
    he_mpp: Annotated[
        float | None,
        typer.Option(help="Micrometres per pixel of the H&E slide.", show_default="its own", rich_help_panel=LIE),
    ] = None,
    ihc_mpp: Annotated[
        float | None,
        typer.Option(help="Micrometres per pixel of the IHC slide.", show_default="its own", rich_help_panel=LIE),
    ] = None,
    least_shared: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the H&E's tissue that the IHC slide must show.", rich_help_panel=LIE),
    ] = 0.5,
    least_tissue: Annotated[
        float, typer.Option(help="Share of a tile that must be tissue.", rich_help_panel=BARS)
    ] = 0.5,
    least_overlap: Annotated[
        float, typer.Option(help="Share of that tissue that the IHC must show.", rich_help_panel=BARS)
    ] = 0.8,
    most_residual: Annotated[
        float, typer.Option(help="Largest residual misalignment, in µm.", rich_help_panel=BARS)
    ] = 12.0,
    least_detail: Annotated[
        float,
        typer.Option(help="How sharp slides and tiles must be; 0.6 is usual, 0.1 blurred.", rich_help_panel=BARS),
    ] = 0.1,
    processes: Annotated[int, typer.Option(min=1, help="Pairs of slides at a time.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads for each pair of slides.")] = 2,
) -> None:
    """Register slides of neighbouring sections and cut pairs of tiles that fit, in the layout of MIST."""
    from restain.registration.data_set import LIST, CutJob, cut_data_set
    from restain.registration.jobs import one_pair
    from restain.registration.slides import Demands
    from restain.registration.tiling import CutSettings
    from restain.workers.pool import Processes

    if len(slides) == 2:
        pairs = [one_pair(*slides, transform=transform, he_mpp=he_mpp, ihc_mpp=ihc_mpp)]
        typer.echo(
            "All tiles of one case are for training; a CSV of several cases keeps some for validation.", err=True
        )
    elif len(slides) == 1 and slides[0].suffix.lower() == ".csv":
        if transform is not None or he_mpp is not None or ihc_mpp is not None:
            raise ConfigError(
                "--transform, --he-mpp and --ihc-mpp are for two slides; in a CSV they are the columns transform, "
                "he_mpp and ihc_mpp"
            )
        pairs = _listed(slides[0], validation, seed)
    else:
        raise ConfigError(f"{len(slides)} files: give the H&E slide and the IHC slide, or one CSV of them")
    settings = CutSettings(mpp, size, step or size, least_tissue, least_overlap, most_residual, least_detail)
    demands = Demands(mirror, any_scale, least_shared, least_detail)
    job = CutJob(out, settings, demands, inverse, threads)
    with _progress() as progress:
        tasks: dict[str, TaskID] = {}

        def show(pair: "SlidePair", doing: str, done: int, total: int) -> None:
            _show(progress, tasks, pair.name, doing, done, total)

        def tell(pair: "SlidePair", result: "CutReport | str") -> None:
            if pair.name in tasks:
                progress.remove_task(tasks.pop(pair.name))
            progress.console.print(_words(pair, result), soft_wrap=True, highlight=False, markup=False)

        outcome = cut_data_set(
            pairs, job, pool=Processes(processes) if processes > 1 else None, on_event=show, on_done=tell
        )
    kept = sum(report.kept for report in outcome.reports)
    if kept:
        train, val = (outcome.listed.get(split, 0) for split in ("train", "val"))
        typer.echo(f"{out / LIST} lists {train} pairs to train and {val} to validate.")
    if outcome.failures:
        words = f"{len(outcome.failures)} of {len(pairs)} pairs of slides failed; run the same command to retry them."
        typer.echo(words, err=True)
    if outcome.failures or not kept:
        raise typer.Exit(1)


def _listed(path: Path, validation: float, seed: int) -> "list[SlidePair]":
    from restain.folders import some
    from restain.registration.jobs import columns_not_read, read_slide_pairs

    pairs = read_slide_pairs(path, validation, seed)
    if others := columns_not_read(path):
        typer.echo(f"{path}: columns that are not read: {some(others)}", err=True)
    return pairs


def _progress() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _show(progress: "Progress", tasks: "dict[str, TaskID]", name: str, doing: str, done: int, total: int) -> None:
    """One line for each pair of slides at work; a new one for each kind of work, so that rates are its own."""
    words = f"{name}: {doing}"
    key = tasks.get(name)
    task = next((task for task in progress.tasks if task.id == key), None)
    if task is None or not task.description.startswith(words):
        if key is not None:
            progress.remove_task(key)
        tasks[name] = progress.add_task(words, total=total or None, completed=done)
        return
    rate = f", {task.speed:.1f} per second" if task.speed else ""
    progress.update(task.id, completed=done, total=total or None, description=words + rate)


def _words(pair: "SlidePair", result: "CutReport | str") -> str:
    if isinstance(result, str):
        return f"{pair.name} failed: {result}"
    figures = result.figures
    facts = []
    if "agreement" in figures:
        facts.append(f"{figures['agreement']:.0%} of the blocks agree")
    if "residual_um" in figures:
        facts.append(f"residual {figures['residual_um']:.1f} µm")
    left_out = ", ".join(f"{count} {why}" for why, count in result.left_out.items())
    words = f"{pair.name}: {result.kept} of {result.tiles} tiles kept"
    words += f" ({left_out})" if left_out else ""
    return f"{words}; {', '.join(facts)}" if facts else words
