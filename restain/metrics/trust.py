"""What `restain stain --trust` wrote about the H&E of virtual images, read back."""

import csv
from collections.abc import Iterable
from pathlib import Path

from restain.folders import TRUST_FOLDER

TABLE = "trust.csv"
UNLIKE = "unlike_training_share"
"""The column of the share of blocks that are unlike the H&E of the training, 0 to 1; empty where nobody knows."""


def unlike_shares(virtual: Path, names: Iterable[str]) -> list[float]:
    """The share of blocks unlike the training, 0 to 1, of each tile for which it was written down.

    Args:
        virtual: folder of virtual images.
        names: of the tiles, without ending.
    """
    table = virtual / TRUST_FOLDER / TABLE
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        shares = {row["image"]: row[UNLIKE] for row in csv.DictReader(file)}
    return [float(shares[name]) for name in names if shares.get(name)]
