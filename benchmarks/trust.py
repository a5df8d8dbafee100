"""Does disagreement tell where a virtual stain is wrong? Rank correlation with the error where the truth is known.

    python benchmarks/trust.py PAIRS MODEL [MODEL ...] [--he valA] [--truth valB_aligned] [--tiles 16] [--crop-px 256]

PAIRS holds the folders of H&E and of the IHC in register with it. For each model: disagreement under the eight
symmetries against the absolute error of the DAB density, by blocks of 16 px inside a tile (mean over tiles) and over
tiles. Two models or more are also asked together.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from restain import load_generator, stain
from restain.folders import list_images
from restain.image import RGB, load_image, to_tensor
from restain.stains import dab_density, to_unit
from restain.trust.disagreement import disagreement, under_symmetries

BLOCK_PX = 16


def blocks(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Mean of each block."""
    rows, columns = (length // BLOCK_PX for length in values.shape)
    cut = values[: rows * BLOCK_PX, : columns * BLOCK_PX]
    return cut.reshape(rows, BLOCK_PX, columns, BLOCK_PX).mean((1, 3))


def dab(rgb: RGB) -> NDArray[np.floating]:
    """DAB density, H x W."""
    return dab_density(to_unit(to_tensor(rgb)))[0, 0].numpy()


def report(name: str, tiles: list[tuple[RGB, RGB]], asked: Callable[[RGB], Iterator[RGB]]) -> None:
    """Print the rank correlations of one way of asking."""
    within, spreads, errors = [], [], []
    for he, truth in tiles:
        stained = list(asked(he))
        spread, error = blocks(disagreement(stained)), np.abs(blocks(dab(stained[0])) - blocks(dab(truth)))
        within.append(spearmanr(spread.ravel(), error.ravel()).statistic)
        spreads.append(spread.mean())
        errors.append(error.mean())
    over = spearmanr(spreads, errors).statistic
    known = np.array(within)[np.isfinite(within)]
    print(
        f"{name:36}{known.mean():10.2f} ± {known.std() / len(known) ** 0.5:.2f}{over:12.2f}{np.mean(errors):12.3f}",
        flush=True,
    )


def main() -> None:
    """Print one row for each model, and one for all together."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--he", default="valA")
    parser.add_argument("--truth", default="valB_aligned")
    parser.add_argument("--tiles", type=int, default=16)
    parser.add_argument("--crop-px", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    crop = arguments.crop_px
    paths = list_images(arguments.pairs / arguments.he)
    truths = {path.stem: path for path in list_images(arguments.pairs / arguments.truth)}
    chosen = paths[:: max(1, len(paths) // arguments.tiles)][: arguments.tiles]
    tiles = [(load_image(path)[:crop, :crop], load_image(truths[path.stem])[:crop, :crop]) for path in chosen]
    generators = [load_generator(model, arguments.device) for model in arguments.models]
    print(f"{len(tiles)} tiles of {crop} px, blocks of {BLOCK_PX} px; Spearman with the error of the DAB density")
    print(f"{'':36}{'in a tile':>17}{'over tiles':>12}{'error, OD':>12}")
    for path, generator in zip(arguments.models, generators, strict=True):

        def symmetric(he: RGB, generator=generator) -> Iterator[RGB]:  # noqa: ANN001
            return under_symmetries(lambda rgb: stain(generator, rgb), he)

        report(f"{path.parent.name}, eight symmetries", tiles, symmetric)
    if len(generators) > 1:
        report(f"{len(generators)} models", tiles, lambda he: (stain(generator, he) for generator in generators))


if __name__ == "__main__":
    main()
