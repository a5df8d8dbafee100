"""Trust maps for slides, beside their results: one value per block of 64 px, so that memory is bounded."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from restain.folders import beside
from restain.image import RGB, save_image, to_tensor, to_uint8
from restain.metrics.trust import read_trust_table, trust_row, write_trust_table
from restain.networks.norm import evaluating
from restain.quantify.density import Float32s
from restain.slides.identity import job_of
from restain.slides.tiling import Box
from restain.staining.model import Model
from restain.staining.plan import Plan
from restain.staining.policies import WindowStainer
from restain.staining.settings import OnProgress, SlideSettings
from restain.staining.sitting import Sitting, memory_in_words
from restain.stains import to_unit
from restain.trust.disagreement import disagreement, under_symmetries
from restain.trust.familiarity import BLOCK_PX, Familiarity, familiarity_of
from restain.trust.maps import check_turnable, made_with, paint_disagreement

_SHOWN_PX = 4
"""Side of a block in the picture."""


@dataclass(frozen=True)
class SlideTrust:
    """One value per block of 64 px of the result; blocks at the right and lower border are cut."""

    disagreement: Float32s
    """Standard deviation of the DAB density, mean over the block, rows x columns; NaN where nothing was stained."""
    unlike: NDArray[np.bool_] | None
    """Whether the H&E is unfamiliar, rows x columns; None without calibration."""

    @property
    def unlike_share(self) -> float:
        """Share of unfamiliar blocks among the stained ones; NaN without calibration."""
        return math.nan if self.unlike is None else float(self.unlike[~np.isnan(self.disagreement)].mean())

    def picture(self) -> RGB:
        """The map drawn by `paint_disagreement`, 4 x 4 px per block."""
        spread = self.disagreement.repeat(_SHOWN_PX, axis=0).repeat(_SHOWN_PX, axis=1)
        return paint_disagreement(spread, self.unlike, _SHOWN_PX)


@dataclass(frozen=True)
class SlideMaps:
    """Writes `NAME.trust.png` and `NAME.trust.csv` for each slide; pass it to `stain_slide` or `stain_slides`."""

    def check(self, settings: SlideSettings) -> None:
        """Refuse a norm policy whose statistics depend on position.

        Raises:
            InputError: it is `dense`.
        """
        check_turnable(settings.norm)

    def is_made(self, model: Model, out: Path) -> bool:
        """Whether both files exist, belong to the result, and are up to date for this model."""
        row = next(iter(read_trust_table(beside(out, "trust.csv")).values()), {})
        wanted = made_with(familiarity_of(model.extra), job_of(out))
        return beside(out, "trust.png").exists() and row.get("made_with") == wanted

    def make(self, sitting: Sitting, on_progress: OnProgress | None) -> list[str]:
        """Make the map of a stained slide; returns notes.

        Raises:
            InputError: the slide is damaged.
            OutputError: a file cannot be written.
        """
        familiarity = familiarity_of(sitting.model.extra)
        with evaluating(sitting.model.generator), memory_in_words(sitting.plan):
            trust = map_trust(sitting.network(), sitting.plan, familiarity, on_progress)
        picture, table = beside(sitting.out, "trust.png"), beside(sitting.out, "trust.csv")
        save_image(picture, trust.picture())
        share = trust.unlike_share
        key = made_with(familiarity, sitting.job)
        write_trust_table(table, [trust_row(table.name.removesuffix(".trust.csv"), share, key)])
        found = f"; {share:.1%} of its blocks are unlike the training H&E" if familiarity else ""
        return [f"{picture} is bright where the stain depends on orientation{found}"]


def map_trust(
    network: WindowStainer, plan: Plan, familiarity: Familiarity | None, on_progress: OnProgress | None = None
) -> SlideTrust:
    """Stain every tile in its eight orientations.

    Args:
        network: with a norm policy that does not depend on position, so not `dense`.
        plan: of the slide.
        familiarity: the model's calibration.
        on_progress: called after each tile.

    Raises:
        InputError: the slide is damaged.
    """
    finest = math.lcm(BLOCK_PX, plan.tile_px & -plan.tile_px)  # a multiple of blocks, and of what the network needs
    tiles = list(plan.tiles(-(-plan.tile_px // finest) * finest))
    grid = -(-plan.area.height // BLOCK_PX), -(-plan.area.width // BLOCK_PX)
    spread = np.full(grid, np.nan, np.float32)
    unlike = np.zeros(grid, bool)
    total_px = sum(tile.core.width * tile.core.height for tile in tiles)
    done_px = 0
    for done, tile in enumerate(tiles, start=1):
        core = tile.core.within(tile.window).slices
        he = plan.read(tile.window)
        found = _block_means(disagreement(under_symmetries(partial(_stain, network, tile.window), he))[core])
        row, column = (tile.core.y - plan.area.y) // BLOCK_PX, (tile.core.x - plan.area.x) // BLOCK_PX
        spread[row : row + found.shape[0], column : column + found.shape[1]] = found
        if familiarity is not None and min(tile.core.width, tile.core.height) >= BLOCK_PX:
            odd = familiarity.unlike(to_unit(to_tensor(np.ascontiguousarray(he[core]))))[0].numpy()
            unlike[row : row + odd.shape[0], column : column + odd.shape[1]] = odd
        done_px += tile.core.width * tile.core.height
        if on_progress:
            on_progress(done, len(tiles), done_px / 1e6, total_px / 1e6)
    spread[~_stained_blocks(plan, grid)] = np.nan
    return SlideTrust(spread, None if familiarity is None else unlike)


def _stain(network: WindowStainer, place: Box, he: RGB) -> RGB:
    virtual: RGB = to_uint8(network(to_tensor(he), place))[0]
    return virtual


def _stained_blocks(plan: Plan, grid: tuple[int, int]) -> NDArray[np.bool_]:
    """Which blocks are stained; tiles of the network may extend beyond the stained area."""
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


def _block_means(values: Float32s) -> Float32s:
    """Means over blocks of 64 px; the last ones may be cut."""
    rows, columns = (range(0, length, BLOCK_PX) for length in values.shape)
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    heights, widths = (np.diff([*range(0, length, BLOCK_PX), length]) for length in values.shape)
    return np.asarray(sums / (heights[:, None] * widths), np.float32)
