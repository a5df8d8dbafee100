"""`restain pairs error`: how far a transform misses landmarks."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    transforms: Annotated[
        list[Path],
        typer.Argument(
            help="Transforms as `restain pairs cut` writes them.", metavar="TRANSFORM...", show_default=False
        ),
    ],
    landmarks: Annotated[
        list[Path],
        typer.Option(
            help="ACROBAT's CSV; or of one pair ANHIR's two, given twice, H&E first.",
            metavar="FILE",
            show_default=False,
        ),
    ],
) -> None:
    """Measure the target registration error of transforms by landmarks in the files of ANHIR or ACROBAT."""
    import numpy as np
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from restain.errors import ConfigError
    from restain.registration.landmarks import landmark_error, read_landmarks
    from restain.registration.transform import load_transform

    if len(landmarks) == 2 and len(transforms) > 1:
        raise ConfigError("two files of landmarks belong to one pair of slides; give one transform at a time")
    table = Table("Slides", "Landmarks", "Median, µm", "90 %, µm", "Median rTRE", "90 % rTRE", box=None, pad_edge=False)
    medians = []
    for path in transforms:
        transform = load_transform(path)
        found = landmark_error(transform, read_landmarks(landmarks, transform.he, transform.ihc))
        medians.append((found.median_um, found.median_relative))
        um = f"{found.median_um:.2f}", f"{found.high_um:.2f}"
        relative = f"{found.median_relative:.3%}", f"{found.high_relative:.3%}"
        table.add_row(escape(f"{transform.he.name} → {transform.ihc.name}"), str(len(found.um)), *um, *relative)
    Console().print(table)
    if len(medians) > 1:
        middle_um, middle = np.median(medians, axis=0)
        typer.echo(f"Median of the {len(medians)} medians: {middle_um:.2f} µm, rTRE {middle:.3%}")
