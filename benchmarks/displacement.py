"""How well a trained VSMT's alignment matrix finds a known displacement, on held-out pairs.

    python benchmarks/displacement.py RUN DATA

DATA is in MIST layout with `displacement/NAME.npy` beside its images, as `restain phantom` writes it. Prints the median
distance, in px, between where the alignment sends a region and where the truth does, and the same for the identity.
Where the truth lies beside the tiles (`valB_aligned`), also for the best case: the real IHC in register takes the place
of the virtual one, and each region goes to the single region most like it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from restain.alignment import region_similarity
from restain.data.pairs import PairedTiles
from restain.folders import list_images
from restain.image import load_image, to_tensor
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
    aligned = {path.stem: path for folder in arguments.data.rglob("valB_aligned") for path in list_images(folder)}
    found, identity, best = [], [], []
    for index, name in enumerate(pairs.names):
        pair = pairs[index]
        truth = torch.from_numpy(np.load(displacements / f"{name}.npy").astype(np.float32))[None]
        matrix = method.align(pair.he, pair.ihc, generator(0, "clusters", index))
        tile = recovery(matrix, truth, pair.he.shape[-1])
        found.append(tile.aligned_px)
        identity.append(tile.identity_px)
        if name in aligned:
            register = to_tensor(load_image(aligned[name]))
            best.append(recovery(best_matches(method, register, pair.ihc), truth, pair.he.shape[-1]).aligned_px)
    grid = round(matrix.shape[-1] ** 0.5)
    distances, lengths = torch.cat(found), torch.cat(identity)
    print(f"{len(pairs)} pairs, {grid} x {grid} regions each, {len(distances):,} regions with a true place in the tile")
    print(
        f"median distance to the true place: alignment {distances.median():.1f} px, identity {lengths.median():.1f} px"
    )
    if best:
        print(f"best case, real IHC in register and single best matches: {torch.cat(best).median():.1f} px")


@torch.no_grad()
def best_matches(method: Vsmt, one: Tensor, two: Tensor) -> Tensor:
    """Each region of one real IHC sent to the region of another that the method finds most like it, as a matrix."""
    regions = [method.spatial.regions(method.tasks.ihc_structure(image)) for image in (one, two)]
    similarity = region_similarity(*regions)
    return torch.zeros_like(similarity).scatter_(2, similarity.argmax(2, keepdim=True), 1)


if __name__ == "__main__":
    main()
