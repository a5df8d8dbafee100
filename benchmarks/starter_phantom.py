"""Draw the pairs that `phantom-her2` learns from: H&E of many laboratories, IHC of one, in register.

    python benchmarks/starter_phantom.py phantom-in-register --pairs 512

A model with one look gives white glass and one brown, where the mean over laboratories is grey and pale. Tiles are
drawn until each grade (0 to 3+) has as many as any other. There is no held-out side: `restain phantom` draws one, of
other tissue and of other laboratories.
"""

import argparse
from itertools import count
from pathlib import Path

import numpy as np

from restain.data.phantom import PhantomCells, PhantomSettings, Tissue
from restain.data.phantom.pair import _choose_window, _listed
from restain.data.phantom.render import Staining, camera_noise, draw_staining, he_substance, ihc_substance, photograph
from restain.image import save_image
from restain.randomness import derive_seed

GLASS = 0.97
"""Light through the bare slide of the IHC."""


def laboratory() -> Staining:
    """The average of many laboratories, with a bright lamp."""
    rng = np.random.default_rng(0)
    drawn = [draw_staining(rng, "ihc") for _ in range(1000)]
    vectors = np.mean([one.vectors for one in drawn], axis=0)
    return Staining(
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        np.mean([one.strengths for one in drawn], axis=0),
        np.full(3, GLASS),
    )


def draw(seed: int, size: int, ihc: Staining) -> tuple[PhantomCells, np.ndarray, np.ndarray]:
    """The cells of one tile, its H&E and its IHC."""
    settings = PhantomSettings(size_px=size)
    tissue = Tissue(derive_seed(seed, "phantom", "tissue"), settings.marker, settings.mpp)
    rng = np.random.default_rng(derive_seed(seed, "phantom", "laboratory"))
    he = draw_staining(rng, "he")
    window = _choose_window(tissue, size, rng)
    section = tissue.draw(window)
    grains = [camera_noise(derive_seed(seed, side), np.arange(size), np.arange(size)) for side in ("he", "ihc")]
    return (
        _listed(section, window, settings.mpp),
        photograph(he_substance(section.layers), he, grains[0]),
        photograph(ihc_substance(section.layers), ihc, grains[1]),
    )


def main() -> None:
    """Draw tile after tile, keep those of a grade that still lacks some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pairs", type=int, default=512, help="a multiple of four")
    parser.add_argument("--size", type=int, default=256, help="side of a tile in px")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    missing, ihc = dict.fromkeys(range(4), given.pairs // 4), laboratory()
    for index in count():
        if not any(missing.values()):
            break
        cells, he, stained = draw(derive_seed(given.seed, "starter", index), given.size, ihc)
        if missing[cells.grade]:
            missing[cells.grade] -= 1
            for side, image in (("trainA", he), ("trainB", stained)):
                save_image(given.out / side / f"{index:05d}_{cells.grade}+.png", image)


if __name__ == "__main__":
    main()
