"""The table beside trust maps: written by `restain.trust`, read by the report."""

import csv
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from restain.errors import OutputError
from restain.folders import TRUST_FOLDER
from restain.image import atomic_path

TABLE = "trust.csv"
COLUMNS = ("name", "unlike_training_share", "made_with")
"""Name of the image or slide, without suffix; share of its blocks unlike the training H&E, 0 to 1, empty if the model
is not calibrated; what the map depends on."""


def trust_row(name: str, share: float, made_with: str) -> dict[str, str]:
    """A row of the table; the share is NaN where it is not known."""
    return dict(zip(COLUMNS, (name, "" if math.isnan(share) else f"{share:.5f}", made_with), strict=True))


def write_trust_table(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """Write the table.

    Args:
        path: the CSV.
        rows: from `trust_row` and `read_trust_table`.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\r\n")
        writer.writeheader()
        writer.writerows(rows)


def forget_trust(folder: Path, names: Collection[str]) -> None:
    """Remove the maps of images that are to be replaced, and their rows.

    Args:
        folder: of the maps; it may not exist.
        names: of the images, without ending.

    Raises:
        OutputError: a file cannot be removed or written.
    """
    table = folder / TABLE
    try:
        for name in names:
            (folder / f"{name}.png").unlink(missing_ok=True)
        rows = read_trust_table(table)
        kept = [row for name, row in rows.items() if name not in names]
        if rows and not kept:
            table.unlink()
    except OSError as error:
        raise OutputError(f"cannot remove earlier trust maps in {folder}: {error.strerror}; move it away") from error
    if kept and len(kept) < len(rows):
        write_trust_table(table, kept)


def read_trust_table(path: Path) -> dict[str, dict[str, str]]:
    """The rows of a table by name; empty if there is no such file, or it is another table."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["name"]: row for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error):
        return {}


def unlike_shares(virtual: Path, names: Iterable[str]) -> list[float]:
    """Share of blocks unlike the training H&E, 0 to 1, of each tile for which it is recorded.

    Args:
        virtual: folder of virtual images.
        names: of the tiles, without ending.
    """
    rows = read_trust_table(virtual / TRUST_FOLDER / TABLE)
    return [float(share) for name in names if (share := rows.get(name, {}).get("unlike_training_share"))]
