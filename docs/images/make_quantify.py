"""Draw `quantify.png`: nuclei of a phantom tile outlined by class, for a nuclear and for a membrane marker.

Run it from the project's root: `python docs/images/make_quantify.py`.
"""

from pathlib import Path
from typing import get_args

import numpy as np
from PIL import Image

from restain.data.phantom import PhantomSettings, draw_pair
from restain.quantify import QuantifySettings, quantify_image
from restain.quantify.output import draw_tile
from restain.stains import Marker

SEED, SIZE_PX, HEIGHT_PX, GAP_PX = 40, 512, 320, 8


def main() -> None:
    """Draw both tiles side by side."""
    drawn = []
    for marker in get_args(Marker):
        ihc = draw_pair(SEED, PhantomSettings(size_px=SIZE_PX, marker=marker)).ihc_aligned
        drawn += [draw_tile(quantify_image(ihc, QuantifySettings(0.5, marker)))[60 : 60 + HEIGHT_PX]]
    gap = np.full((HEIGHT_PX, GAP_PX, 3), 255, np.uint8)
    picture = Image.fromarray(np.concatenate([drawn[0], gap, drawn[1]], axis=1))
    picture = picture.resize((picture.width * 5 // 4, picture.height * 5 // 4), Image.Resampling.LANCZOS)
    picture.quantize(128).save(Path(__file__).with_name("quantify.png"), optimize=True)


if __name__ == "__main__":
    main()
