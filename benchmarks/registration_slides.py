"""How well two slides are registered: drawn pairs with a known transform.

python benchmarks/registration_slides.py draw FOLDER [--pairs 100]     draw random pairs of slides (once; an hour)
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np

from restain.data.phantom import NeighbourSettings, PhantomNeighbour, PhantomSlide
from restain.slides.tiff import Description
from restain.slides.writer import write_slide

SIDE_PX, MPP = 1500, 2.0


def drawn(seed: int) -> PhantomNeighbour:
    """A pair of slides of 3 mm, at random: angle, mirror, scale 0.5 to 2, bend, resolution, what else lies there."""
    rng = np.random.default_rng(seed)
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(2))))
    settings = NeighbourSettings(
        mpp=round(scale * float(rng.uniform(1.2, 2.0)), 4),
        angle=float(rng.uniform(-180, 180)),
        mirror=bool(rng.integers(2)),
        scale=scale,
        bend_um=float(rng.uniform(0, 60)),
        control=bool(rng.integers(2)),
        pen=bool(rng.random() < 0.3),
        black_edge=bool(rng.random() < 0.3),
    )
    marker = "membrane" if rng.integers(2) else "nuclear"
    slide = PhantomSlide(seed, SIDE_PX, marker, MPP, float(rng.uniform(0.25, 0.45)), framed=True)
    return PhantomNeighbour(slide, settings)


def draw(folder: Path, seeds: range) -> None:
    """Draw the pairs that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        pair = drawn(seed)
        side = (SIDE_PX, SIDE_PX)
        for name, tile, size, mpp, glass in (
            ("he", pair.he, side, MPP, pair.slide.he_glass),
            ("ihc", pair.ihc, pair.size, pair.mpp, pair.glass),
        ):
            path = folder / f"{seed:03d}-{name}.ome.tif"
            if not path.exists():
                write_slide(path, size, tile, Description(name, mpp), background=glass, threads=1)
        print(f"{seed:03d}", asdict(pair.settings), flush=True)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    given = parser.parse_args()
    draw(given.folder, range(given.pairs))


if __name__ == "__main__":
    main()
