"""Make the pairs that a starter model learns from: tiles of a set with a truth, halved if need be, in register.

    python benchmarks/starter_data.py colon-512 colon-register --halve
    python benchmarks/starter_data.py phantom/TrainValAB phantom-register
    python benchmarks/starter_data.py colon-512 colon --halve --as-they-are

In the result trainB and valB are the truth: the IHC of the very section of the H&E. With --as-they-are, every side
keeps its name instead: trainB stays displaced.
"""

import argparse
from pathlib import Path

from PIL import Image

from restain.folders import list_images

SIDES = {"trainA": "trainA", "trainB_aligned": "trainB", "valA": "valA", "valB_aligned": "valB"}
AS_THEY_ARE = ("trainA", "trainB", "trainB_aligned", "valA", "valB", "valB_aligned")


def main() -> None:
    """Copy side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--halve", action="store_true", help="mean of 2 x 2 px")
    parser.add_argument("--as-they-are", action="store_true", help="all sides under their own names")
    given = parser.parse_args()
    sides = {name: name for name in AS_THEY_ARE if (given.source / name).is_dir()} if given.as_they_are else SIDES
    for side, name in sides.items():
        folder = given.out / name
        folder.mkdir(parents=True)
        for path in list_images(given.source / side):
            tile = Image.open(path).convert("RGB")
            (tile.reduce(2) if given.halve else tile).save(folder / f"{path.stem}.png")


if __name__ == "__main__":
    main()
