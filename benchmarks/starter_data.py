"""Make the pairs that a starter model learns from: tiles of a set with a truth, halved if need be, in register.

    python benchmarks/starter_data.py colon-512 colon --halve
    python benchmarks/starter_data.py phantom/TrainValAB phantom-in-register

In the result trainB and valB are the truth: the IHC of the very section of the H&E.
"""

import argparse
from pathlib import Path

from PIL import Image

from restain.folders import list_images

SIDES = {"trainA": "trainA", "trainB_aligned": "trainB", "valA": "valA", "valB_aligned": "valB"}


def main() -> None:
    """Copy side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--halve", action="store_true", help="mean of 2 x 2 px")
    given = parser.parse_args()
    for side, name in SIDES.items():
        folder = given.out / name
        folder.mkdir(parents=True)
        for path in list_images(given.source / side):
            tile = Image.open(path).convert("RGB")
            (tile.reduce(2) if given.halve else tile).save(folder / f"{path.stem}.png")


if __name__ == "__main__":
    main()
