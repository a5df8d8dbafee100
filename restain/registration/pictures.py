"""Pictures to judge a registration by: both slides on one another with the tiles that were cut, and some of these."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from restain.image import RGB, load_image, save_image
from restain.registration.field import Raster
from restain.registration.overview import Overview, Shared
from restain.registration.tiling import TileFacts
from restain.registration.transform import Transform
from restain.registration.warp import places_between, warp

PANEL_PX = 700
THUMB_PX = 220
TILES = 24
"""On a contact sheet, at most."""
_CHECKS = 10  # squares of the chequerboard along the longer side
_GAP_PX, _TEXT_PX = 10, 20
_KEPT, _LEFT_OUT, _ALONE = "#1a9641", "#a0a0a0", "#d7191c"


def save_overlay(
    path: Path,
    he: Overview,
    ihc: Overview,
    transform: Transform,
    shared: Shared,
    tiles: Sequence[TileFacts],
    tile_um: float,
) -> None:
    """Draw the H&E with the tiles (green: kept), both slides as a chequerboard, and the IHC with what has no partner.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    on_he = laid_on(ihc, he.box, transform)
    panels = [_panel(he.rgb), _panel(_chequered(he.rgb, on_he)), _panel(_marked(ihc.rgb, shared.without_partner))]
    scale = panels[0].width / he.rgb.shape[1] / he.mpp
    draw = ImageDraw.Draw(panels[0])
    for tile in sorted(tiles, key=lambda tile: not tile.why):
        left, top = (place * he.scan.mpp * scale for place in (tile.x_px, tile.y_px))
        corner = left + tile_um * scale - 1, top + tile_um * scale - 1
        draw.rectangle((left, top, *corner), outline=_LEFT_OUT if tile.why else _KEPT)
    kept = sum(not tile.why for tile in tiles)
    words = (
        f"{he.scan.name}: {kept} tiles kept (green), {len(tiles) - kept} left out",
        "both, by turns",
        f"{ihc.scan.name}: without a partner (red) {shared.pieces}",
    )
    width = sum(panel.width + _GAP_PX for panel in panels) + _GAP_PX
    height = max(panel.height for panel in panels) + _TEXT_PX + 2 * _GAP_PX
    sheet = Image.new("RGB", (width, height), "white")
    font, left = ImageFont.load_default(13), _GAP_PX
    for panel, text in zip(panels, words, strict=True):
        ImageDraw.Draw(sheet).text((left, _GAP_PX // 2), text, "#2b2823", font)
        sheet.paste(panel, (left, _TEXT_PX + _GAP_PX))
        left += panel.width + _GAP_PX
    save_image(path, np.asarray(sheet))


def laid_on(ihc: Overview, box: Raster, transform: Transform) -> RGB:
    """The overview of the IHC as it lies on the slide of the H&E; white beyond it."""
    drawn, covered = warp(np.array(ihc.rgb), ihc.box, places_between(transform, box))
    drawn[~covered] = 255
    return drawn


def save_tiles(path: Path, tiles: Sequence[tuple[TileFacts, Path, Path]]) -> None:
    """Draw some of the tiles, H&E beside IHC, spread evenly over those that were kept, with their residual.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    chosen = [tiles[index] for index in np.linspace(0, len(tiles) - 1, min(TILES, len(tiles))).round().astype(int)]
    columns = min(4, max(1, len(chosen)))
    rows = max(1, math.ceil(len(chosen) / columns))
    across, down = 2 * THUMB_PX + 2 * _GAP_PX, THUMB_PX + _TEXT_PX + _GAP_PX
    sheet = Image.new("RGB", (columns * across + _GAP_PX, rows * down + _GAP_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for index, (facts, he, ihc) in enumerate(chosen):
        left, top = _GAP_PX + index % columns * across, _GAP_PX + index // columns * down
        words = f"({facts.x_px}, {facts.y_px}): {facts.residual_um:.1f} micrometres apart"
        draw.text((left, top), words, "#2b2823", font)
        for nth, file in enumerate((he, ihc)):
            thumb = Image.fromarray(load_image(file)).resize((THUMB_PX, THUMB_PX), Image.Resampling.BOX)
            sheet.paste(thumb, (left + nth * (THUMB_PX + 2), top + _TEXT_PX))
    save_image(path, np.asarray(sheet))


def _panel(rgb: RGB) -> Image.Image:
    image = Image.fromarray(rgb)
    scale = PANEL_PX / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)


def _chequered(first: RGB, second: RGB) -> RGB:
    height, width = first.shape[:2]
    side = max(1, max(height, width) // _CHECKS)
    rows, columns = np.arange(height)[:, None] // side, np.arange(width) // side
    return np.where(((rows + columns) % 2 == 0)[..., None], first, second)


def _marked(rgb: RGB, mask: NDArray[np.bool_]) -> RGB:
    colour = np.array([int(_ALONE[n : n + 2], 16) for n in (1, 3, 5)])
    return np.where(mask[..., None], (rgb * 0.5 + colour * 0.5).astype(np.uint8), rgb)
