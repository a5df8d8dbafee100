"""`restain push`: a checkpoint to the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[
        Path,
        typer.Argument(
            help="A checkpoint, or the name of one that comes with restain.", metavar="FILE|NAME", show_default=False
        ),
    ],
    repository: Annotated[
        str, typer.Argument(help="Where to, made where it is missing.", metavar="OWNER/NAME", show_default=False)
    ],
    card: Annotated[
        Path | None,
        typer.Option(
            help="Your description of the model, Markdown.", metavar="FILE", show_default="from the checkpoint"
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.", show_default="the version")] = "",
) -> None:
    """Publish a checkpoint on the Hugging Face Hub, with a card; `--model hf://OWNER/NAME` then finds it."""
    from restain.checkpoint import read_weights
    from restain.checkpoint.card import card_of
    from restain.folders import read_text
    from restain.models import find_model, packaged_models
    from restain.models.hub import publish

    weights = find_model(model)
    info, _ = read_weights(weights)  # damaged or foreign files stay here
    known = packaged_models().get(str(model))
    source = card or (known.card if known else None)
    body = read_text(source, "a card in Markdown") if source else ""
    use = f"pip install 'restain[hub]'\nrestain stain he.png --model hf://{repository} --out virtual"
    place = publish(weights, card_of(info, repository, use, body), repository, private=private, message=message)
    typer.echo(f"{place}\nUse it as --model hf://{repository}.")
