"""`restain calibrate`: store in a checkpoint what its training H&E looks like."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from restain.data.layouts import Split


def command(
    model: Annotated[
        Path,
        typer.Option(help="Checkpoint of a generator; its header is extended.", metavar="FILE", show_default=False),
    ],
    data: Annotated[
        Path,
        typer.Option(help="Data set that it was trained on, with validation tiles.", metavar="DIR", show_default=False),
    ],
) -> None:
    """Store in a checkpoint what its training H&E looks like, so that --trust marks unfamiliar tissue."""
    from restain.checkpoint import add_to_checkpoint, check_changeable, read_info
    from restain.data.layouts import find_layout
    from restain.data.pairs import PairedTiles
    from restain.stains import to_unit
    from restain.trust.familiarity import USUAL, fit_familiarity

    read_info(model)  # a wrong file is reported before the tiles are read
    check_changeable(model)
    held_out = {"val", "test"}.intersection(find_layout(data).parts)

    def tiles(split: "Split") -> "Iterator[Tensor]":
        found = PairedTiles(data, split, grades="none")
        return (to_unit(found.item(number, 0).he) for number in range(len(found)))

    fitted = fit_familiarity(tiles("train"), tiles("val" if held_out else "train"))
    add_to_checkpoint(model, {"familiarity": fitted.as_json()})
    if not held_out:
        typer.echo(
            f"{data} has no validation tiles, so the threshold comes from the training tiles and is too strict: more"
            f" than {1 - USUAL:.0%} of the blocks of normal tiles will be marked as unfamiliar",
            err=True,
        )
    typer.echo(f"{model} is calibrated on {data}: blocks at a distance above {fitted.threshold:.2f} are unfamiliar")
