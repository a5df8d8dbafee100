"""One picture of the pairs that most need a look: H&E beside IHC, with a line on what is wrong."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from restain.data.check import KINDS, Findings
from restain.data.layouts import find_layout, pair_files
from restain.image import save_image

THUMB_PX = 240
ROWS = 12
_GAP_PX, _TEXT_PX = 10, 22


def save_contact_sheet(findings: Findings, path: Path) -> bool:
    """Draw the worst tiles, the gravest problems first and every kind in turn, as PNG.

    Returns:
        Whether there was anything to draw.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    rows = _worst(findings)
    if not rows:
        return False
    layout = find_layout(findings.root)
    files = {f"{part}/{pair.name}": pair for part, folders in layout.folders.items() for pair in pair_files(*folders)}
    row_px = THUMB_PX + _TEXT_PX + _GAP_PX
    columns = 2 if len(rows) > 1 else 1
    lines = -(-len(rows) // columns)
    column_px = 2 * THUMB_PX + 3 * _GAP_PX
    sheet = Image.new("RGB", (columns * column_px + _GAP_PX, lines * row_px + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for place, (tile, words) in enumerate(rows):
        left, top = _GAP_PX + place % columns * column_px, _GAP_PX + place // columns * row_px
        draw.text((left, top), _shortened(f"{tile}: {words}", draw, font, 2 * THUMB_PX + _GAP_PX), "#2b2823", font)
        he, ihc = (Image.fromarray(np.ascontiguousarray(side)) for side in files[tile].load())
        for index, side in enumerate((he, ihc)):
            side.thumbnail((THUMB_PX, THUMB_PX))
            sheet.paste(side, (left + index * (THUMB_PX + _GAP_PX), top + _TEXT_PX))
    save_image(path, np.asarray(sheet))
    return True


def _worst(findings: Findings) -> list[tuple[str, str]]:
    """(tile, words) of the sheet's rows: the first problem of each kind, then the second of each, and so on."""
    queues = [[problem for problem in findings.problems if problem.kind == kind] for kind in KINDS]
    turns = (queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue))
    rows = [(tile, f"{problem.kind}, {problem.words}") for problem in turns for tile in problem.tiles[:2]]
    return rows[:ROWS]


def _shortened(
    words: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, px: int
) -> str:
    if draw.textlength(words, font) <= px:
        return words
    while words and draw.textlength(words + "…", font) > px:
        words = words[:-1]
    return words + "…"
