"""Draw `slide_pairs.jpg`: the overlay that `restain pairs cut` writes about a pair of slides.

Follow the tutorial (`docs/tutorials/slides.md`) up to `restain pairs cut`, then run this from the project's root:
`python docs/images/make_slide_pairs.py tiles`, with the folder of its data set.
"""

import sys
from pathlib import Path

from PIL import Image

WIDTH_PX = 1320


def main() -> None:
    """Make the picture small enough for a page."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = min((Path(sys.argv[1]) / "slides").iterdir())
    overlay = Image.open(folder / "overlay.png")
    overlay = overlay.resize((WIDTH_PX, round(overlay.height * WIDTH_PX / overlay.width)), Image.Resampling.LANCZOS)
    overlay.save(Path(__file__).with_name("slide_pairs.jpg"), quality=85)


if __name__ == "__main__":
    main()
