"""Draw `seams.jpg`: one drawn H&E, stained in one piece and in tiles under each norm policy.

Run it from the project's root with any trained generator: `python docs/images/make_seams.py MODEL`.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from restain.checkpoint import load_generator
from restain.data.phantom import PhantomSettings, draw_pair
from restain.staining.images import stain
from restain.staining.policies import POLICIES

SEED, SIZE_PX, TILE_PX, GAP_PX = 7, 512, 128, 8


def main(model: Path) -> None:
    """Write the picture beside this script."""
    generator = load_generator(model)
    he = draw_pair(SEED, PhantomSettings(size_px=SIZE_PX)).he
    panels = [stain(generator, he)]
    panels += [stain(generator, he, tile_px=TILE_PX, norm=POLICIES[norm]) for norm in ("tile", "slide", "dense")]
    white = np.full((SIZE_PX, GAP_PX, 3), 255, np.uint8)
    row = np.concatenate([part for panel in panels for part in (panel, white)][:-1], axis=1)
    picture = Image.fromarray(row)
    picture = picture.resize((picture.width * 3 // 4, picture.height * 3 // 4), Image.Resampling.LANCZOS)
    picture.save(Path(__file__).with_name("seams.jpg"), quality=85)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
