"""`restain models`."""

from pathlib import Path
from typing import Annotated

import typer


def command(context: typer.Context) -> None:
    """List the models that come with restain; `restain stain --model NAME` takes them by name."""
    if context.invoked_subcommand is not None:
        return
    from restain.checkpoint import read_info
    from restain.models import packaged_models

    known = packaged_models()
    width = max(map(len, known))
    for name, model in known.items():
        info = read_info(model.weights)
        megabytes = model.weights.stat().st_size / 1e6
        typer.echo(f"{name:{width}}  {info.stain}, {info.mpp} µm per px, {megabytes:.1f} MB: {_title(model.card)}")
    typer.echo(
        "\nFor research, not for diagnosis. `restain models show NAME` shows the data, accuracy and limits of one."
    )


def show(
    name: Annotated[str, typer.Argument(help="Name of the model.", metavar="NAME", show_default=False)],
) -> None:
    """Show the card of a model: its data, its accuracy on held-out tissue, and its limits."""
    from rich.console import Console
    from rich.markdown import Markdown

    from restain.errors import MissingError
    from restain.models import packaged_models

    known = packaged_models()
    if name not in known:
        raise MissingError(f"no model is called {name!r}; the package has {' and '.join(known)}")
    model = known[name]
    Console().print(Markdown(model.card.read_text(encoding="utf-8")))
    typer.echo(f"Picture: {model.picture}\nWeights: {model.weights}")


def _title(card: Path) -> str:
    """The heading in the first line of a card."""
    with card.open(encoding="utf-8") as lines:
        return lines.readline().lstrip("#").strip()
