"""Draw `aligned.jpg`: a pair of tiles before and after `restain pairs align`, as a chequerboard of both stains.

Run it from the project's root: `python docs/images/make_aligned.py` draws a phantom. `make_aligned.py ROOT OUT.png`
draws the pairs of a data set of your own and prints their figures; `--most` says how many.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from restain.data.layouts import find_layout
from restain.data.phantom import PhantomSettings, draw_pair
from restain.image import RGB, to_tensor
from restain.registration.tiles import align_tile
from restain.registration.warp import places_on, warp
from restain.stains import rgb_to_hed, to_unit

SEED, SIZE_PX, GAP_PX, TEXT_PX, SQUARES = 7, 512, 8, 22, 8
BLUR = 1 / 128
"""Of the haematoxylin before it is correlated: standard deviation as a share of the tile's side."""


def chequered(first: RGB, second: RGB) -> RGB:
    """Two images by turns."""
    height, width = first.shape[:2]
    side = -(-max(height, width) // SQUARES)
    rows, columns = np.arange(height)[:, None] // side, np.arange(width) // side
    return np.where(((rows + columns) % 2 == 0)[..., None], first, second)


def correlation(he: RGB, ihc: RGB, inside: NDArray[np.bool_]) -> float:
    """Of the blurred haematoxylin of both sides, where both are seen."""
    sigma = BLUR * max(he.shape[:2])
    blurred = [
        ndimage.gaussian_filter(rgb_to_hed(to_unit(to_tensor(image)))[0, 0].numpy(), sigma)[inside]
        for image in (he, ihc)
    ]
    return float(np.corrcoef(*blurred)[0, 1])


def row(he: RGB, ihc: RGB, side_px: int) -> tuple[Image.Image, str]:
    """H&E, IHC, both before and both after; and what was found, in words."""
    found = align_tile(to_tensor(he), to_tensor(ihc))
    drawn, covered = ihc, np.ones(he.shape[:2], bool)
    before = correlation(he, ihc, covered)
    words = found.why_not
    if not words:
        drawn, covered = warp(ihc, found.box, places_on(found.field, found.box))
        after = correlation(he, drawn, covered)
        words = f"moved by {found.figures.moved_px:.0f} px; correlation {before:.3f}, now {after:.3f}"
        drawn[~covered] = 255
    panels = he, ihc, chequered(he, ihc), chequered(he, drawn)
    picture = Image.new("RGB", (4 * side_px + 3 * GAP_PX, side_px + TEXT_PX), "white")
    for index, (panel, text) in enumerate(zip(panels, ("H&E", "IHC", "before", words), strict=True)):
        left = index * (side_px + GAP_PX)
        ImageDraw.Draw(picture).text((left, 2), text, "#2b2823", ImageFont.load_default(13))
        small = Image.fromarray(panel).resize((side_px, side_px), Image.Resampling.LANCZOS)
        picture.paste(small, (left, TEXT_PX))
    return picture, words


def stacked(rows: list[Image.Image]) -> Image.Image:
    """One below the other."""
    height = rows[0].height + GAP_PX
    picture = Image.new("RGB", (rows[0].width, len(rows) * height - GAP_PX), "white")
    for index, one in enumerate(rows):
        picture.paste(one, (0, index * height))
    return picture


def main() -> None:
    """Draw the phantom beside this script, or a data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", nargs="?", type=Path)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--most", type=int, default=8, help="pairs to draw")
    given = parser.parse_args()
    if given.root is None:
        pair = draw_pair(SEED, PhantomSettings(size_px=SIZE_PX))
        picture, _ = row(pair.he, pair.ihc, 320)
        picture.save(Path(__file__).with_name("aligned.jpg"), quality=88)
        return
    if given.out is None:
        parser.error("give the picture to write, too")
    layout = find_layout(given.root)
    rows = []
    for pair in [pair for part in layout.parts for pair in layout.pairs(part)][: given.most]:
        picture, words = row(*pair.load(), 400)
        rows.append(picture)
        print(f"{pair.name}: {words}")
    stacked(rows).save(given.out)
    print(given.out)


if __name__ == "__main__":
    main()
