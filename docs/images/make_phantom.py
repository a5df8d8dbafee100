"""Draw `phantom.png`: H&E, IHC of the displaced neighbour, IHC of the same section, and what is known about the pair.

Run it from the project's root: `python docs/images/make_phantom.py`.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from restain.data.phantom import KINDS, PhantomPair, PhantomSettings, draw_pair

SEED, SIZE_PX, GAP_PX = 7, 384, 8
COLOURS = {"tumour": (20, 90, 200), "stroma": (20, 140, 60), "lymphocyte": (20, 20, 20)}
POSITIVE = (200, 90, 0)


def draw_truth(pair: PhantomPair) -> Image.Image:
    """Cells as circles, positive ones filled, over a pale H&E; the displacement as arrows."""
    image = Image.blend(Image.fromarray(pair.he), Image.new("RGB", pair.he.shape[1::-1], "white"), 0.7)
    draw = ImageDraw.Draw(image)
    cells = pair.cells
    for x, y, radius, kind, positive in zip(cells.x, cells.y, cells.radius, cells.kind, cells.positive, strict=True):
        colour = POSITIVE if positive else COLOURS[KINDS[kind]]
        draw.circle((x, y), radius, outline=colour, fill=colour if positive else None)
    points = np.linspace(0, SIZE_PX - 1, pair.displacement.shape[-1])
    for row in range(5, 64, 9):
        for column in range(5, 64, 9):
            start = np.array([points[column], points[row]])
            end = start + pair.displacement[:, row, column].astype(float)
            along = 4 * (end - start) / max(float(np.linalg.norm(end - start)), 1e-6)
            sideways = np.array([-along[1], along[0]])
            draw.line((*start, *end), fill="black", width=2)
            draw.polygon([tuple(end + along), tuple(end - along + sideways), tuple(end - along - sideways)], "black")
    return image


def main() -> None:
    """Write the picture beside this script."""
    pair = draw_pair(SEED, PhantomSettings(size_px=SIZE_PX))
    panels = [*map(Image.fromarray, (pair.he, pair.ihc, pair.ihc_aligned)), draw_truth(pair)]
    picture = Image.new("RGB", (4 * SIZE_PX + 3 * GAP_PX, SIZE_PX), "white")
    for index, panel in enumerate(panels):
        picture.paste(panel, (index * (SIZE_PX + GAP_PX), 0))
    few = picture.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=2, dither=Image.Dither.NONE)
    few.save(Path(__file__).with_name("phantom.png"), optimize=True)


if __name__ == "__main__":
    main()
