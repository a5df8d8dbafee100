"""Draw `colon.jpg`: held-out tiles, stained after training on displaced and on registered pairs; the worst two last.

Run it from the project's root, with four folders of images: `python docs/images/make_colon.py HE DISPLACED REGISTERED
TRUTH`.
"""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from restain.folders import list_images
from restain.image import load_image, to_tensor
from restain.metrics.expression import positive_areas
from restain.stains import to_unit

SHOWN, WORST = 4, 2
PANEL_PX, GAP_PX, LABEL_PX = 200, 4, 96
LABELS = ("H&E", "displaced", "registered", "truth")


def overlap(virtual: Path, truth: Path) -> float:
    """Dice of the positive area of one tile; 1 where nothing is positive."""
    images = [to_unit(to_tensor(load_image(path))) for path in (virtual, truth)]
    both, first, second = positive_areas(*images)[0].tolist()
    return 2 * both / (first + second) if first + second else 1.0


def main(folders: list[Path]) -> None:
    """Write the picture beside this script."""
    sides = [{path.stem: path for path in list_images(folder)} for folder in folders]
    torch.set_num_threads(1)
    worst = sorted(sides[0], key=lambda name: overlap(sides[2][name], sides[3][name]))[:WORST]
    others = [name for name in sides[0] if name not in worst]
    names = [others[(2 * place + 1) * len(others) // (2 * SHOWN)] for place in range(SHOWN)] + worst
    step = PANEL_PX + GAP_PX
    picture = Image.new("RGB", (LABEL_PX + len(names) * step - GAP_PX, len(sides) * step - GAP_PX), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for row, (label, side) in enumerate(zip(LABELS, sides, strict=True)):
        draw.text((LABEL_PX - 8, row * step + PANEL_PX // 2), label, "black", font, anchor="rm")
        for column, name in enumerate(names):
            tile = Image.open(side[name]).convert("RGB").resize((PANEL_PX, PANEL_PX), Image.Resampling.LANCZOS)
            picture.paste(tile, (LABEL_PX + column * step, row * step))
    picture.save(Path(__file__).with_name("colon.jpg"), quality=82, optimize=True)


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
