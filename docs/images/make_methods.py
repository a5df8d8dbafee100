"""Draw `methods.jpg`: two held-out tiles as each row of a bench stains them, beside the H&E and the true IHC.

Run it from the project's root with the folder of a bench: `python docs/images/make_methods.py BENCH`.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from restain.folders import list_images
from restain.image import load_image

PANEL_PX, GAP_PX, LABEL_PX, COLUMNS = 180, 6, 18, 5
TILES = (0, 1)
"""Which of the held-out tiles, by their order."""


def main(bench: Path) -> None:
    """Write the picture beside this script."""
    held_out = {folder.name: list_images(folder) for folder in sorted((bench / "held-out").iterdir())}
    panels = {"H&E": [held_out["he"][index] for index in TILES]}
    for name in json.loads((bench / "table.json").read_text(encoding="utf-8"))["rows"]:
        folder = next(path for path in (bench / "cells").glob("*-0") if row_of(path) == name)
        panels[name] = [list_images(folder / "virtual")[index] for index in TILES]
    panels["true IHC"] = [held_out["real"][index] for index in TILES]
    names = list(panels)
    rows = [names[start : start + COLUMNS] for start in range(0, len(names), COLUMNS)]
    high = LABEL_PX + len(TILES) * (PANEL_PX + GAP_PX)
    picture = Image.new("RGB", (COLUMNS * (PANEL_PX + GAP_PX) - GAP_PX, len(rows) * (high + GAP_PX)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for row, members in enumerate(rows):
        for column, name in enumerate(members):
            x, y = column * (PANEL_PX + GAP_PX), row * (high + GAP_PX)
            draw.text((x + PANEL_PX // 2, y + 1), name, "black", font, anchor="ma")
            for place, path in enumerate(panels[name]):
                tile = Image.fromarray(np.ascontiguousarray(load_image(path)))
                tile = tile.resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS)
                picture.paste(tile, (x, y + LABEL_PX + place * (PANEL_PX + GAP_PX)))
    picture.save(Path(__file__).with_name("methods.jpg"), quality=88)


def row_of(cell: Path) -> str:
    """The name of the row that a cell belongs to."""
    return str(json.loads((cell / "result.json").read_text(encoding="utf-8"))["row"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
