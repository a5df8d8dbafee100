"""Where not to believe the virtual stain of a slide: a coarse map, one value for each block of 64 px.

The two signs are those of `restain.staining.trust`, taken tile by tile, so that memory does not grow with the slide:
how much the eight orientations of the tissue, or several checkpoints, disagree on DAB, and where the H&E is unlike the
training's.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from restain.image import atomic_path, save_image, to_tensor, to_uint8
from restain.metrics.familiarity import BLOCK_PX, Familiarity
from restain.slides.tiling import Box
from restain.staining.plan import Plan
from restain.staining.policies import Network
from restain.staining.settings import OnProgress
from restain.staining.trust import SHOWN_OD, Stain, comparable, disagreement
from restain.stains import to_unit

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SHOWN_PX = 4
"""Side of a block in the picture."""
_UNSTAINED = 200


@dataclass(frozen=True)
class SlideTrust:
    """One value for each block of 64 px of the result; at its right and lower border, blocks are cut."""

    name: str
    disagreement: Floats
    """Standard deviation of the DAB density, mean over the block, rows x columns; NaN where nothing is stained."""
    unlike: NDArray[np.bool_] | None
    """Whether the H&E is unlike the training's, rows x columns; None where the model does not know its training."""
    networks: int = 1
    """How many were asked."""

    def summary(self) -> tuple[float, float, float]:
        """Mean and 95th percentile of the disagreement, and the share of unlike blocks, NaN where it is not known."""
        stained = ~np.isnan(self.disagreement)
        values = self.disagreement[stained]
        share = math.nan if self.unlike is None else float(self.unlike[stained].mean())
        return float(values.mean()), float(np.quantile(values, 0.95)), share

    def __str__(self) -> str:
        mean, high, share = self.summary()
        asked = "orientations" if self.networks == 1 else f"{self.networks} checkpoints"
        told = f"{asked} disagree by {mean:.3f} of optical density, in the worst twentieth by {high:.3f} and more"
        return told if math.isnan(share) else f"{told}; {share:.1%} of the blocks are unlike the training"

    def picture(self) -> RGB:
        """Dark where the stain can be believed, bright where not; unlike blocks framed in cyan, unstained ones grey."""
        stained = ~np.isnan(self.disagreement)
        levels = np.minimum(np.nan_to_num(self.disagreement) / SHOWN_OD, 1)
        colours = (mpl.colormaps["inferno"](levels)[..., :3] * 255).round().astype(np.uint8)
        colours[~stained] = _UNSTAINED
        rgb: RGB = colours.repeat(_SHOWN_PX, axis=0).repeat(_SHOWN_PX, axis=1)
        if self.unlike is not None:
            rows, columns = (np.arange(length) % _SHOWN_PX for length in rgb.shape[:2])
            edge = np.isin(rows, (0, _SHOWN_PX - 1))[:, None] | np.isin(columns, (0, _SHOWN_PX - 1))
            rgb[edge & self.unlike.repeat(_SHOWN_PX, axis=0).repeat(_SHOWN_PX, axis=1)] = (0, 220, 220)
        return rgb

    def save(self, table: Path, picture: Path, made_with: str) -> None:
        """Write the picture, then the table.

        Args:
            table: CSV.
            picture: PNG.
            made_with: what the map depends on, as `restain.staining.trust_files.made_with` says it.

        Raises:
            OutputError: a file cannot be written.
        """
        save_image(picture, self.picture())
        with atomic_path(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["slide", "disagreement_mean_od", "disagreement_p95_od", "unlike_training_share", "made_with"]
            )
            values = ("" if math.isnan(value) else f"{value:.5f}" for value in self.summary())
            writer.writerow([self.name, *values, made_with])


def map_trust(
    networks: Sequence[Network], plan: Plan, familiarity: Familiarity | None, on_progress: OnProgress | None = None
) -> SlideTrust:
    """Stain every tile in its eight orientations, or by each of several networks.

    Args:
        networks: under a norm policy that does not depend on the place, so not `dense`.
        plan: of the slide.
        familiarity: what the model knows of its training H&E.
        on_progress: called after each tile.

    Raises:
        InputError: the slide is damaged.
    """
    finest = math.lcm(BLOCK_PX, plan.tile_px & -plan.tile_px)  # of blocks, and of what the network asks of tiles
    tiles = list(plan.tiles(-(-plan.tile_px // finest) * finest))
    grid = -(-plan.area.height // BLOCK_PX), -(-plan.area.width // BLOCK_PX)
    spread = np.full(grid, np.nan, np.float32)
    unlike = np.zeros(grid, bool)
    total_px = sum(tile.core.width * tile.core.height for tile in tiles)
    done_px = 0
    for done, tile in enumerate(tiles, start=1):
        core = tile.core.within(tile.window).slices
        he = plan.read(tile.window)
        stains: list[Stain] = [partial(_stain, network, tile.window) for network in networks]
        found = _block_means(disagreement(comparable(stains, he))[core])
        row, column = (tile.core.y - plan.area.y) // BLOCK_PX, (tile.core.x - plan.area.x) // BLOCK_PX
        spread[row : row + found.shape[0], column : column + found.shape[1]] = found
        if familiarity is not None and min(tile.core.width, tile.core.height) >= BLOCK_PX:
            odd = familiarity.unlike(to_unit(to_tensor(np.ascontiguousarray(he[core]))))[0].numpy()
            unlike[row : row + odd.shape[0], column : column + odd.shape[1]] = odd
        done_px += tile.core.width * tile.core.height
        if on_progress:
            on_progress(done, len(tiles), done_px / 1e6, total_px / 1e6)
    spread[~_stained_blocks(plan, grid)] = np.nan
    return SlideTrust(plan.slide.path.name, spread, None if familiarity is None else unlike, len(networks))


def _stain(network: Network, place: Box, he: RGB) -> RGB:
    virtual: RGB = to_uint8(network(to_tensor(he), place))[0]
    return virtual


def _stained_blocks(plan: Plan, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Which blocks hold something stained; tiles of the network reach over what the result leaves out."""
    stained = np.zeros(grid, bool)
    for position in (position for work in plan.work() for position in work.positions):
        box, drawn = plan.box(position), plan.drawn_in(plan.box(position))
        y, x = box.y - plan.area.y, box.x - plan.area.x
        if drawn is None:
            bottom, right = -(-(y + box.height) // BLOCK_PX), -(-(x + box.width) // BLOCK_PX)
            stained[y // BLOCK_PX : bottom, x // BLOCK_PX : right] = True
        else:
            rows, columns = np.nonzero(drawn)
            stained[(rows + y) // BLOCK_PX, (columns + x) // BLOCK_PX] = True
    return stained


def _block_means(values: Floats) -> Floats:
    """Means over blocks of 64 px; the last of each side may be cut."""
    rows, columns = (range(0, length, BLOCK_PX) for length in values.shape)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    heights, widths = (np.diff([*range(0, length, BLOCK_PX), length]) for length in values.shape)
    return np.asarray(sums / (heights[:, None] * widths), np.float32)
