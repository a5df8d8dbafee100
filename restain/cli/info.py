"""`restain info`: what a checkpoint holds."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    file: Annotated[
        Path,
        typer.Argument(
            help="Checkpoint (*.safetensors), the name of a model that comes with restain, or hf://OWNER/NAME.",
            metavar="MODEL",
            show_default=False,
        ),
    ],
) -> None:
    """Show what a checkpoint holds: its network, what trained it and at which resolution, and its versions."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from restain.checkpoint import read_info
    from restain.models import find_model

    file = find_model(file)
    info = read_info(file)
    rows = {
        "file": f"{file}, {file.stat().st_size / 1e6:.1f} MB",
        "kind": info.kind,
        "network": ", ".join(f"{name} {value}" for name, value in info.network.items()),
        "parameters": f"{info.parameters:,}",
        "method": info.method,
        "stain": info.stain or "not recorded",
        "resolution": f"{info.mpp} µm per px" if info.mpp else "not recorded",
        "created": f"{info.created:%Y-%m-%d %H:%M} UTC",
        "versions": ", ".join(f"{name} {number}" for name, number in info.versions.items()),
        "weights' SHA-256": info.sha256,
        **{name.replace("_", " "): _words(name, value) for name, value in info.extra.items()},
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(escape(name), escape(value))
    Console().print(table, highlight=False)


def _words(name: str, value: object) -> str:
    """Further entries of a header as text."""
    if name == "familiarity":
        return "calibrated"
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
