"""`restain phantom`: pairs of drawn tiles with a known truth."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def command(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="OUT", show_default=False)],
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs.", show_default=False)],
    size: Annotated[int, typer.Option(help="Side of a tile in px, at least 64.")] = 512,
    marker: Annotated[
        Literal["membrane", "nuclear"], typer.Option(help="Where positive cells are brown: as HER2, or as Ki67 and ER.")
    ] = "membrane",
    mpp: Annotated[float, typer.Option(help="Micrometres per pixel, 0.1 to 2.")] = 0.5,
    displacement: Annotated[
        float, typer.Option(help="Longest displacement of the IHC, as a share of the side, 0 to 0.25.")
    ] = 48 / 512,
    validation: Annotated[
        float, typer.Option(help="Pairs kept for validation: a share below 1, or a number of pairs.")
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="The same seed draws the same pairs.")] = 0,
) -> None:
    """Draw pairs of H&E and IHC tiles whose displacement, cells and true stain are known, in the layout of MIST."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from restain.data.phantom import PhantomSettings, write_pairs

    settings = PhantomSettings(size_px=size, marker=marker, mpp=mpp, displacement=displacement)
    held_out = _held_out(validation, pairs)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("pairs", total=pairs)

        def show(done: int, total: int) -> None:
            rate = progress.tasks[0].speed or 0
            progress.update(task, completed=done, total=total, description=f"pairs, {rate:.1f} per second")

        write_pairs(out, pairs, validation=held_out, seed=seed, settings=settings, on_progress=show)
    counts = f"{pairs - held_out} pairs to train and {held_out} to validate"
    typer.echo(f"{out / 'TrainValAB'} holds {counts}, with the truth beside them")


def _held_out(validation: float, pairs: int) -> int:
    """Number of pairs for validation: at least one of two or more, unless 0 is asked for."""
    from restain.errors import ConfigError

    if validation < 0 or validation > pairs or (validation >= 1 and validation != int(validation)):
        raise ConfigError(f"--validation {validation:g}: expected a share below 1, or a whole number up to {pairs}")
    if validation >= 1:
        return int(validation)
    least = 1 if validation > 0 and pairs > 1 else 0
    return max(round(validation * pairs), least)
