"""`restain calibrate`: teach a checkpoint what its training H&E looks like."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from restain.data.layouts import Split


def command(
    model: Annotated[Path, typer.Option(help="Checkpoint of a generator; its header is added to.", metavar="FILE")],
    data: Annotated[Path, typer.Option(help="The pairs it was trained on, with validation tiles.", metavar="DIR")],
) -> None:
    """Store in a checkpoint what its training H&E looks like, so that `restain stain --trust` marks what is unlike."""
    from restain.checkpoint import load_checkpoint, save_checkpoint
    from restain.data.pairs import PairedTiles
    from restain.metrics.familiarity import fit_familiarity
    from restain.stains import to_unit

    network, info = load_checkpoint(model)

    def tiles(split: "Split") -> "Iterator[Tensor]":
        found = PairedTiles(data, split, crop_px=None, seed=0, augment=None)
        return (to_unit(found.item(number, 0).he) for number in range(len(found)))

    fitted = fit_familiarity(tiles("train"), tiles("val"))
    extra = {**info.extra, "familiarity": fitted.as_json()}
    save_checkpoint(model, network, method=info.method, stain=info.stain, mpp=info.mpp, extra=extra)
    typer.echo(f"{model} knows the H&E of {data}: a block farther than {fitted.threshold:.2f} from it is unlike it")
