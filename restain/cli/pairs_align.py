"""`restain pairs align`: the pairs of a data set, brought into register."""

import time
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from restain.registration.tile_set import AlignOutcome

MOST_REASONS = 5
"""Number of reasons that are shown; the table has all."""


def command(
    root: Annotated[
        Path,
        typer.Argument(
            help="The data set's folder, or a CSV file that lists pairs.", metavar="ROOT", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the aligned data set.", show_default=False)],
    mpp: Annotated[
        float | None,
        typer.Option(help="Micrometres per pixel of the tiles, to tell residuals in µm.", show_default=False),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Cut a square of this side, in px, out of every pair.", show_default="all that both sides share"
        ),
    ] = None,
    drop_below: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Leave out pairs that are not aligned, or whose agreement is less.",
            show_default="pairs that are not aligned are kept as they were",
        ),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Pairs at a time.")] = 1,
) -> None:
    """Find how each IHC tile is displaced against its H&E, warp it onto the H&E, and crop both to what they share."""
    from restain.registration.tile_pairs import AlignSettings
    from restain.registration.tile_set import align_data_set
    from restain.workers.pool import Processes

    settings = AlignSettings(mpp, size, drop_below)
    with _progress() as show:
        outcome = align_data_set(root, out, settings, pool=Processes(processes), on_progress=show)
    _tell(outcome, out, mpp)
    if outcome.failures or not outcome.count("aligned"):
        raise typer.Exit(1)


@contextmanager
def _progress() -> "Iterator[Callable[[int, int], None]]":
    """A bar on stderr with the rate and the time that is left; what is done at the first call took no time."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("pairs", total=None)
        began: list[tuple[float, int]] = []

        def show(done: int, total: int) -> None:
            began.append((time.monotonic(), done))
            seconds, pairs = began[-1][0] - began[0][0], done - began[0][1]
            words = f"{pairs / seconds:.1f} pairs/s" if pairs and seconds else "pairs"
            progress.update(task, completed=done, total=total, description=words)

        yield show


def _tell(outcome: "AlignOutcome", out: Path, mpp: float | None) -> None:
    """How many pairs are aligned and how well, why others are not, and where everything is."""
    from restain.data.layouts import LIST_NAME
    from restain.registration.tile_set import LEFT_OUT

    aligned, kept, left_out = (outcome.count(verdict) for verdict in ("aligned", "kept", "left out"))
    typer.echo(f"{len(outcome.rows)} pairs: {aligned} aligned, {kept} kept as they were, {left_out} left out.")
    if aligned:
        moved, residual, before, after = (
            median(getattr(row.figures, name) for row in outcome.rows if row.verdict == "aligned")
            for name in ("moved_px", "residual_px", "correlation_before", "correlation_after")
        )
        um = f" ({residual * mpp:.1f} µm)" if mpp else ""
        typer.echo(
            f"Median of the aligned pairs: moved by {moved:.1f} px, blocks now {residual:.1f} px{um} apart, "
            f"correlation of haematoxylin {before:.2f} before and {after:.2f} after."
        )
    reasons: dict[str, list[str]] = {}
    for row in outcome.rows:
        if row.why:
            reasons.setdefault(row.why.partition(":")[0], []).append(f"{row.name}: {row.why}")
    for same in sorted(reasons.values(), key=len, reverse=True)[:MOST_REASONS]:
        typer.echo(f"  {same[0]}" + (f" (and {len(same) - 1} like it)" if len(same) > 1 else ""))
    for name, why in outcome.failures.items():
        typer.echo(f"{name} failed: {why}", err=True)
    if outcome.failures:
        typer.echo("Run the same command to retry what failed.", err=True)
    if aligned + kept:
        others = f", {out / LEFT_OUT} those left out" if left_out else ""
        typer.echo(f"{out / LIST_NAME} lists the pairs with their figures{others}; restain train reads {out}.")
