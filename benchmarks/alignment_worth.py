"""What is VSMT's alignment worth: does A F(y) stand nearer to F(y in register) than F(y) does?

    python benchmarks/alignment_worth.py RUN DATA [--pairs 26]

RUN is the folder of a VSMT training. DATA has held-out pairs and, beside them, the IHC in register (`valB_aligned`).
Each is matched three times: the IHC displaced as it is, and aligned as `restain pairs align` does it; for the virtual
IHC stand RUN's own and, as the best case, the real IHC in register. Regions that the aligned IHC does not cover are
left out everywhere.

Two figures of each way. *distance*: mean over regions of |A F(y) - F(in register)|, as a share of that of F(y) left in
place on displaced pairs; below 1 the matrix helps. *positive share*: Pearson correlation, over all regions, of the
share that is DAB-positive with that of the IHC in register. A locality prior multiplies cosine + 1 by a Gaussian of the
distance between regions; `reach` is its standard deviation in px. *place alone* is the control: the same weights if all
regions were alike, a mean over the surroundings that knows nothing of the tissue.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from restain.alignment import active_passive_matching, region_similarity, sparsemax, spherical_kmeans
from restain.data.layouts import find_layout
from restain.image import load_image, to_tensor
from restain.methods.vsmt import Vsmt
from restain.randomness import generator
from restain.registration.tiles import align_tile
from restain.registration.warp import places_on, warp
from restain.stains import positive_mask
from restain.training.trained import load_method

REACHES = (None, 128.0, 64.0, 32.0, 16.0)
"""Of the locality prior, in px; None: without."""
LEAST_COVERED, CLUSTERS = 0.9, 3


def matrices(rows: Tensor, columns: Tensor, index: int, side_px: int) -> dict[float | None, Tensor]:
    """A, N x N, as `alignment_matrix` makes it, with each locality prior.

    Args:
        rows: regions of the image whose regions are rows, 1 x C x n x n.
        columns: of the other.
        index: of the pair, for the first centres of the clusters.
        side_px: of the tile.
    """
    labels = [
        spherical_kmeans(part.flatten(2).mT, CLUSTERS, generator(0, "clusters", index, nth))
        for nth, part in enumerate((rows, columns))
    ]
    similarity = region_similarity(rows, columns)
    permutation = active_passive_matching(similarity, labels[0], labels[1], CLUSTERS)
    matched = permutation.gather(1, labels[0]).unsqueeze(2) == labels[1].unsqueeze(1)
    matched = matched | ~matched.any(-1, keepdim=True)
    return {
        reach_px: sparsemax(torch.where(matched, (similarity + 1) * prior, 0))[0]
        for reach_px, prior in priors(rows.shape[-1], side_px).items()
    }


def priors(grid: int, side_px: int) -> dict[float | None, Tensor]:
    """The weight of each region for each other one, N x N, for each reach."""
    place = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij"), -1).view(-1, 2).float()
    distance = torch.cdist(place, place) * side_px / grid
    return {
        reach_px: torch.ones_like(distance) if reach_px is None else torch.exp(-0.5 * (distance / reach_px) ** 2)
        for reach_px in REACHES
    }


@dataclass(frozen=True)
class Seen:
    """What the method sees of an image."""

    regions: Tensor
    """As they are matched, 1 x C x n x n."""
    means: Tensor
    """Mean feature of each region, N x C."""
    share: Tensor
    """Positive share of each region, N."""


def look(image: Tensor, method: Vsmt) -> Seen:
    """Regions of an image, 1 x 3 x H x W."""
    features = method.tasks.ihc_structure(image)
    side = method.config.region_size
    means = F.avg_pool2d(torch.cat(list(features.values()), dim=1), side)[0]
    share = F.adaptive_avg_pool2d(positive_mask(image).float().view(1, 1, *image.shape[-2:]), means.shape[-2:])
    return Seen(method.spatial.regions(features), means.flatten(1).T, share.flatten())


def reach_in_words(reach_px: float | None) -> str:
    """As it follows the name of a way."""
    return "" if reach_px is None else f", reach {reach_px:.0f} px"


@torch.no_grad()
def main() -> None:
    """Print both figures for every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--pairs", type=int, default=26, help="how many, spread evenly")
    given = parser.parse_args()
    method = load_method(given.run)
    if not isinstance(method, Vsmt):
        parser.error(f"{given.run} is no run of vsmt")
    files = [pair for pair in find_layout(given.data).pairs("val") if pair.in_register()]
    files = [files[index] for index in np.linspace(0, len(files) - 1, min(given.pairs, len(files))).astype(int)]
    distances, shares = defaultdict[str, list[float]](list), defaultdict[str, list[Tensor]](list)
    used = 0
    for index, pair in enumerate(files):
        judge = pair.in_register()
        assert judge is not None
        he, displaced = (to_tensor(image) for image in pair.load())
        found = align_tile(he, displaced)
        if found.why_not:
            print(f"{pair.name} is left out: {found.why_not}")
            continue
        used += 1
        drawn, covered = warp(pair.load_ihc(), found.box, places_on(found.field, found.box))
        register = look(to_tensor(load_image(judge.ihc)), method)
        grid, side_px = round(len(register.share) ** 0.5), he.shape[-1]
        seen = F.adaptive_avg_pool2d(torch.from_numpy(covered)[None, None].float(), grid).flatten() >= LEAST_COVERED
        shares["truth"].append(register.share[seen])
        virtual = look(method.generator(he), method)
        for name, image in (("displaced", displaced), ("aligned", to_tensor(drawn))):
            source = look(image, method)
            ways = {"left in place": torch.eye(grid**2)}
            for reach, prior in priors(grid, side_px).items():
                ways[f"place alone{reach_in_words(reach)}"] = sparsemax(2 * prior[None])[0]
            for rows, matched in (("virtual", virtual), ("in register", register)):
                for reach, found_matrix in matrices(matched.regions, source.regions, index, side_px).items():
                    ways[f"A of {rows}{reach_in_words(reach)}"] = found_matrix
            for way, weights in ways.items():
                miss = (weights @ source.means - register.means)[seen].abs().mean()
                distances[f"{name}, {way}"].append(float(miss))
                shares[f"{name}, {way}"].append((weights @ source.share)[seen])
    print(f"{used} of {len(files)} pairs, {grid} x {grid} regions; A's rows: which image was matched")
    unit, truth = np.mean(distances["displaced, left in place"]), torch.cat(shares["truth"]).numpy()
    print(f"{'':52}{'distance':>10}{'positive share, R':>20}")
    for way, found_distances in distances.items():
        correlation = np.corrcoef(torch.cat(shares[way]).numpy(), truth)[0, 1]
        print(f"{way:52}{np.mean(found_distances) / unit:10.2f}{correlation:20.2f}")


if __name__ == "__main__":
    main()
