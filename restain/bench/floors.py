"""Untrained baselines, evaluated as every row is: a method should be better.

Early in a training rows are not, nor on metrics that a uniform image satisfies; the table shows this.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from restain.bench.cell import RESULT, Judging, measure_cell, write_note
from restain.data.pairs import PairedTiles
from restain.folders import list_images
from restain.image import load_image, save_image

LOOKED_AT = 64
"""Training tiles, spread evenly, whose colour is averaged."""


@dataclass(frozen=True)
class Floor:
    """Held-out tiles of an untrained baseline."""

    name: str
    data: Path
    out: Path
    """Folder of the tiles and of the result."""
    judging: Judging
    device: str

    def done(self) -> bool:
        """Whether its result exists."""
        return (self.out / RESULT).is_file()


UNSTAINED, UNIFORM = "the H&E as it is", "the mean colour of the IHC"


def floors_of(data: Path, out: Path, judging: Judging, device: str) -> list[Floor]:
    """Each H&E tile unchanged, and each uniform in the mean colour of the training IHC."""
    return [
        Floor(name, data, out / key, judging, device) for name, key in ((UNSTAINED, "unstained"), (UNIFORM, "uniform"))
    ]


def work_floor(floor: Floor, console: Console | None) -> None:
    """Make the tiles of a baseline and measure them; to be called in a fresh process."""
    del console  # it takes no longer than a moment
    virtual = floor.out / "virtual"
    colour = mean_colour(floor.data) if floor.name == UNIFORM else None
    for path in list_images(floor.judging.he):
        rgb = load_image(path)
        save_image(virtual / f"{path.stem}.png", rgb if colour is None else np.broadcast_to(colour, rgb.shape).copy())
    found = measure_cell(floor.judging, virtual, floor.out, floor.device)
    write_note(floor.out / RESULT, {"figures": {name: figure.as_json() for name, figure in found.figures.items()}})


def mean_colour(data: Path) -> NDArray[np.uint8]:
    """Mean RGB of the training IHC, 8 bits."""
    pairs = PairedTiles(data, "train", grades="none")
    step = -(-len(pairs.files) // LOOKED_AT)
    means = [pair.load()[1].reshape(-1, 3).mean(axis=0) for pair in pairs.files[::step]]
    colour: NDArray[np.uint8] = np.mean(means, axis=0).round().astype(np.uint8)
    return colour
