"""What is VSMT's alignment worth: does A F(y) stand nearer to F(y in register) than F(y) does?

    python benchmarks/alignment_worth.py RUN DATA [--pairs 26]

DATA has held-out pairs and, beside them, the IHC in register (`valB_aligned`). Each is matched three times: the IHC
displaced as it is, and aligned as `restain pairs align` does it; for the virtual IHC stand RUN's own and, as the best
case, the real IHC in register. Regions that the aligned IHC does not cover are left out everywhere.

Two figures of each way. *distance*: mean over regions of |A F(y) - F(in register)|, as a share of that of F(y) left in
place on displaced pairs; below 1 the matrix helps. *positive share*: Pearson correlation, over all regions, of the
share that is DAB-positive with that of the IHC in register. A locality prior multiplies cosine + 1 by a Gaussian of the
distance between regions; `reach` is its standard deviation in px.
"""

import argparse
from collections import defaultdict
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
LEAST_COVERED = 0.9


def matrix(
    method: Vsmt, virtual: Tensor, reference: Tensor, index: int, reach_px: float | None, side_px: int
) -> Tensor:
    """A, 1 x N x N, as `alignment_matrix` makes it, with a locality prior.

    Args:
        method: whose modulator makes regions.
        virtual: the image whose regions are rows, 1 x 3 x H x W.
        reference: the one whose regions are columns.
        index: of the pair, for the first centres of the clusters.
        reach_px: of the prior.
        side_px: of the tile.
    """
    rows, columns = (method.spatial.regions(method.tasks.ihc_structure(image)) for image in (virtual, reference))
    labels = [
        spherical_kmeans(part.flatten(2).mT, 3, generator(0, "clusters", index, nth))
        for nth, part in enumerate((rows, columns))
    ]
    similarity = region_similarity(rows, columns)
    permutation = active_passive_matching(similarity, labels[0], labels[1], 3)
    matched = permutation.gather(1, labels[0]).unsqueeze(2) == labels[1].unsqueeze(1)
    matched = matched | ~matched.any(-1, keepdim=True)
    logits = similarity + 1
    if reach_px is not None:
        grid = rows.shape[-1]
        place = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij"), -1).view(-1, 2)
        distance = torch.cdist(place.float(), place.float()) * side_px / grid
        logits = logits * torch.exp(-0.5 * (distance / reach_px) ** 2)
    return sparsemax(torch.where(matched, logits, 0))


def regions_of(image: Tensor, method: Vsmt) -> tuple[Tensor, Tensor]:
    """Mean feature of each region, N x C, and its positive share, N."""
    features = torch.cat(list(method.tasks.ihc_structure(image).values()), dim=1)
    side = method.config.region_size
    means = F.avg_pool2d(features, side)[0].flatten(1).T
    share = F.adaptive_avg_pool2d(
        positive_mask(image).float().view(1, 1, *image.shape[-2:]), image.shape[-1] // 4 // side
    )
    return means, share.flatten()


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
        register, aligned = to_tensor(load_image(judge.ihc)), to_tensor(drawn)
        wanted, wanted_share = regions_of(register, method)
        side_px, grid = he.shape[-1], round(len(wanted) ** 0.5)
        seen = F.adaptive_avg_pool2d(torch.from_numpy(covered)[None, None].float(), grid).flatten() >= LEAST_COVERED
        shares["truth"].append(wanted_share[seen])
        virtual = method.generator(he)
        for name, source in (("displaced", displaced), ("aligned", aligned)):
            means, share = regions_of(source, method)
            ways = {"left in place": torch.eye(grid**2)}
            for rows, image in (("virtual", virtual), ("in register", register)):
                for reach in REACHES:
                    words = "" if reach is None else f", reach {reach:.0f} px"
                    ways[f"A of {rows}{words}"] = matrix(method, image, source, index, reach, side_px)[0]
            for way, weights in ways.items():
                miss = (weights @ means - wanted)[seen].abs().mean()
                distances[f"{name}, {way}"].append(float(miss))
                shares[f"{name}, {way}"].append((weights @ share)[seen])
    print(f"{used} of {len(files)} pairs, {grid} x {grid} regions; A's rows: which image was matched")
    unit, truth = np.mean(distances["displaced, left in place"]), torch.cat(shares["truth"]).numpy()
    print(f"{'':52}{'distance':>10}{'positive share, R':>20}")
    for way, found_distances in distances.items():
        correlation = np.corrcoef(torch.cat(shares[way]).numpy(), truth)[0, 1]
        print(f"{way:52}{np.mean(found_distances) / unit:10.2f}{correlation:20.2f}")


if __name__ == "__main__":
    main()
