"""What each norm policy costs or gains in stain accuracy, and what it leaves of seams, on mosaics with a known truth.

python benchmarks/norm_policies.py MODEL DATA [--side 3] [--mosaics 1] [--tile-px 512] [--slide SLIDE.svs]

DATA holds `valA` (H&E) and `valB_aligned` (the IHC of the same tissue). Tiles that follow each other are joined to
mosaics of side x side. "alone" stains each tile of the data by itself, as it lies in the folder.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from restain.checkpoint import load_generator
from restain.folders import list_images
from restain.image import RGB, load_image, to_tensor
from restain.metrics.expression import dab_densities, dice, mean_absolute_difference, pearson, positive_areas
from restain.metrics.seams import seams
from restain.metrics.similarity import ssim
from restain.networks.generator import Generator
from restain.slides.reader import open_slide
from restain.slides.tissue import find_tissue
from restain.staining.images import stain
from restain.staining.plan import make_plan
from restain.staining.policies import DenseNorm, SharedNorm, SlideNorm, TileNorm
from restain.staining.statistics import SAMPLE_PX, SAMPLE_TILES, enough, sample_statistics
from restain.stains import dab_density, to_unit
from restain.workers.memory import reused_memory

UNTILED_PX = 2**20


def policies(generator: Generator, tile_px: int) -> dict[str, Callable[[RGB], RGB]]:
    """Every way to stain a large image."""
    return {
        "untiled": lambda he: stain(generator, he, tile_px=UNTILED_PX),
        "slide": lambda he: stain(generator, he, tile_px=tile_px, norm=SlideNorm()),
        "dense": lambda he: stain(generator, he, tile_px=tile_px, norm=DenseNorm()),
        "tile": lambda he: stain(generator, he, tile_px=tile_px, norm=TileNorm()),
    }


def join(images: list[RGB], side: int) -> RGB:
    """Tiles of one size, row by row, to a mosaic."""
    return np.concatenate([np.concatenate(images[row * side :][:side], axis=1) for row in range(side)])


def cut(mosaic: RGB, side: int) -> list[RGB]:
    """The tiles of a mosaic, row by row."""
    return [tile for row in np.split(mosaic, side) for tile in np.split(row, side, axis=1)]


def accuracy(virtual: list[RGB], real: list[RGB]) -> dict[str, float]:
    """Figures over pairs of tiles."""
    densities, areas, similarities, pixels = [], [], [], []
    for images in zip(virtual, real, strict=True):
        pair = [to_unit(to_tensor(image)) for image in images]
        densities.append(dab_densities(*pair))
        areas.append(positive_areas(*pair))
        similarities.append(ssim(*pair))
        pixels.append([torch.nn.functional.avg_pool2d(dab_density(image), 8).flatten() for image in pair])
    return {
        "DAB error": mean_absolute_difference(*torch.cat(densities).T).item(),
        "DAB r (tiles)": pearson(*torch.cat(densities).T).item(),
        "DAB r (8 px)": pearson(*(torch.cat(list(side)) for side in zip(*pixels, strict=True))).item(),
        "Dice": dice(*torch.cat(areas).T).item(),
        "SSIM": torch.cat(similarities).mean().item(),
    }


def colour(virtual: RGB, reference: RGB) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(virtual.astype(np.int16) - reference).mean())


def seam(image: RGB, tile_px: int) -> float:
    """The seam metric of one image."""
    return seams(to_unit(to_tensor(image)), tile_px).item()


def mosaics(generator: Generator, data: Path, side: int, count: int, tile_px: int) -> None:
    """Print a table over the mosaics so far, after each of them."""
    he, real = ([load_image(path) for path in list_images(data / name)] for name in ("valA", "valB_aligned"))
    stained: dict[str, list[RGB]] = {}
    shifts: dict[str, list[float]] = {}
    for number in range(count):
        some = he[number * side**2 :][: side**2]
        stained.setdefault("alone", []).extend(stain(generator, image) for image in some)
        whole: RGB | None = None
        for name, policy in policies(generator, tile_px).items():
            virtual = policy(join(some, side))
            whole = virtual if whole is None else whole
            stained.setdefault(name, []).extend(cut(virtual, side))
            shifts.setdefault(name, []).append(colour(virtual, whole))
        print(f"{number + 1} mosaics of {side} x {side} tiles, stained in tiles of {tile_px} px")
        for name, images in stained.items():
            figures = accuracy(images, real[: len(images)]) | {"to untiled": np.mean(shifts.get(name, [np.nan]))}
            print(f"{name:14}" + "  ".join(f"{label} {value:.4f}" for label, value in figures.items()), flush=True)


def slide(generator: Generator, path: Path, tile_px: int, side_px: int) -> None:
    """Print seams and colour shifts on the middle of a real slide."""
    import openslide

    file = openslide.OpenSlide(path)
    corner = tuple((length - side_px) // 2 for length in file.dimensions)
    he = np.asarray(file.read_region(corner, 0, (side_px, side_px)).convert("RGB"))
    print(f"{path.name}, {side_px} px square, stained in tiles of {tile_px} px")
    whole: RGB | None = None
    for name, policy in policies(generator, tile_px).items():
        virtual = policy(he)
        whole = virtual if whole is None else whole
        print(f"{name:14}seam {seam(virtual, tile_px):.3f}  to untiled {colour(virtual, whole):.3f}", flush=True)


def samples(generator: Generator, path: Path, side_px: int) -> None:
    """Print how far the middle of a slide, by the statistics of a sample, lies from that by those of all its tissue."""
    with open_slide(path) as opened:
        plan = make_plan(opened, opened.mpp, tile_px=512, halo_px=generator.halo_px, tissue=find_tissue(opened))
        candidates = list(plan.tiles(SAMPLE_PX))
        x, y = ((length - side_px) // 2 for length in opened.size)
        he = opened.read((x, y), (side_px, side_px), opened.mpp)
        whole: RGB | None = None
        tiles = len(candidates)
        exactly_32 = SAMPLE_TILES * tiles // (tiles - SAMPLE_TILES)  # the count of which `enough` makes 32
        for count, seed in (
            (tiles, 0),
            *((count, seed) for count in (SAMPLE_TILES, exactly_32, 8) for seed in range(3)),
        ):
            statistics = sample_statistics(generator, candidates, plan.read, count=count, seed=seed)
            virtual = stain(generator, he, norm=SharedNorm(statistics))
            whole = virtual if whole is None else whole
            taken = tiles if count == tiles else enough(tiles, count)
            print(f"{taken} of {tiles} tiles, seed {seed}: {colour(virtual, whole):.2f} grey levels", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--side", type=int, default=3)
    parser.add_argument("--mosaics", type=int, default=1)
    parser.add_argument("--tile-px", type=int, default=512)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--slide-px", type=int, default=1024)
    parser.add_argument("--samples", action="store_true", help="measure the sampling error on the slide, and no more")
    arguments = parser.parse_args()
    generator = load_generator(arguments.model)
    with reused_memory():
        if arguments.samples:
            samples(generator, arguments.slide, arguments.slide_px)
            return
        if arguments.slide:
            slide(generator, arguments.slide, arguments.tile_px, arguments.slide_px)
        if arguments.mosaics:
            mosaics(generator, arguments.data, arguments.side, arguments.mosaics, arguments.tile_px)


if __name__ == "__main__":
    main()
