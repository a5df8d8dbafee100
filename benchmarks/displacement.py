"""How well a trained VSMT's alignment matrix finds a known displacement, on held-out pairs.

    python benchmarks/displacement.py RUN DATA

DATA is in MIST layout with `displacement/NAME.npy` beside its images, as `restain phantom` writes it. Prints the median
distance, in px, between where the alignment sends a region and where the truth does, and the same for the identity.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from restain.data.pairs import PairedTiles
from restain.methods.vsmt import Vsmt
from restain.metrics.displacement import recovery
from restain.randomness import generator
from restain.training.trained import load_method


def main() -> None:
    """Align every held-out pair and print the medians over all regions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    method = load_method(arguments.run)
    if not isinstance(method, Vsmt):
        parser.error(f"{arguments.run} is no run of vsmt")
    pairs = PairedTiles(arguments.data, "val", grades="none")
    displacements = next(arguments.data.rglob("displacement"))
    found, identity = [], []
    for index, name in enumerate(pairs.names):
        pair = pairs[index]
        truth = torch.from_numpy(np.load(displacements / f"{name}.npy").astype(np.float32))[None]
        matrix = method.align(pair.he, pair.ihc, generator(0, "clusters", index))
        tile = recovery(matrix, truth, pair.he.shape[-1])
        found.append(tile.aligned_px)
        identity.append(tile.identity_px)
    grid = round(matrix.shape[-1] ** 0.5)
    distances, lengths = torch.cat(found), torch.cat(identity)
    print(f"{len(pairs)} pairs, {grid} x {grid} regions each, {len(distances):,} regions with a true place in the tile")
    print(
        f"median distance to the true place: alignment {distances.median():.1f} px, identity {lengths.median():.1f} px"
    )


if __name__ == "__main__":
    main()
