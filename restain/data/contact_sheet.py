"""A contact sheet of the most serious problems: H&E beside IHC, with a line on each.

Two pairs with a common problem, such as the same tissue, are shown side by side.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from restain.data.check import PROBLEM_KINDS, Findings, Problem
from restain.data.layouts import find_layout
from restain.image import save_image

THUMB_PX = 240
LINES = 6
"""Rows of the picture, with two pairs each."""
_GAP_PX, _TEXT_PX = 10, 22


def save_contact_sheet(findings: Findings, path: Path) -> bool:
    """Draw the worst tiles as PNG, the most serious problems first and every kind in turn.

    Returns:
        Whether there was anything to draw; otherwise an earlier picture is removed.

    Raises:
        OutputError: the file cannot be written; nothing is left behind.
    """
    lines = worst_lines(findings)
    if not lines:
        path.unlink(missing_ok=True)
        return False
    layout = find_layout(findings.root)
    files = {f"{part}/{pair.name}": pair for part in layout.parts for pair in layout.pairs(part)}
    row_px = THUMB_PX + _TEXT_PX + _GAP_PX
    columns = max(map(len, lines))
    column_px = 2 * THUMB_PX + 3 * _GAP_PX
    sheet = Image.new("RGB", (columns * column_px + _GAP_PX, len(lines) * row_px + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    places = [(line, column, *shown) for line, row in enumerate(lines) for column, shown in enumerate(row)]
    for line, column, tile, words in places:
        left, top = _GAP_PX + column * column_px, _GAP_PX + line * row_px
        draw.text((left, top), _shortened(words, draw, font, 2 * THUMB_PX + _GAP_PX), "#2b2823", font)
        he, ihc = (Image.fromarray(np.ascontiguousarray(side)) for side in files[tile].load())
        for index, side in enumerate((he, ihc)):
            side.thumbnail((THUMB_PX, THUMB_PX))
            sheet.paste(side, (left + index * (THUMB_PX + _GAP_PX), top + _TEXT_PX))
    save_image(path, np.asarray(sheet))
    return True


def worst_lines(findings: Findings) -> list[list[tuple[str, str]]]:
    """Lines of one or two (tile, words): the first problem of each kind, then the second of each, and so on.

    A tile without a partner fills up an earlier line.
    """
    queues = [[problem for problem in findings.problems if problem.kind == kind] for kind in PROBLEM_KINDS]
    turns = (queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue))
    lines: list[list[tuple[str, str]]] = []
    for problem in turns:
        shown = [(tile, _caption(tile, problem)) for tile in problem.shown]
        line = next((line for line in lines if len(line) + len(shown) <= 2), None)
        if line is not None:
            line.extend(shown)
        elif len(lines) < LINES:
            lines.append(shown)
    return lines


def _caption(tile: str, problem: Problem) -> str:
    partner = "".join(f" with {other}" for other in problem.shown if other != tile)
    return f"{tile}{partner}: {problem.kind}, {problem.words}"


def _shortened(
    words: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, px: int
) -> str:
    if draw.textlength(words, font) <= px:
        return words
    while words and draw.textlength(words + "…", font) > px:
        words = words[:-1]
    return words + "…"
