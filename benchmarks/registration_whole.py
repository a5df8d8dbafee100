"""Registration of a slide with a large one, and with a copy of itself.

python benchmarks/registration_whole.py speed FOLDER   a pair of 40,000 px, of pairs drawn there: time and memory
python benchmarks/registration_whole.py copy SLIDE     against a turned, rescaled, bent, recoloured copy
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from registration_slides import MPP, SIDE_PX, TISSUES, attempt, drawn, files, seeds_in, write_image
from scipy import ndimage

from restain.image import RGB, to_tensor
from restain.registration.field import Affine, Floats, Raster
from restain.registration.slides import Demands, register
from restain.registration.warp import places_between, places_on, warp
from restain.slides.reader import open_slide
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.stains import HED_UNIT, beer_lambert, rgb_to_hed, to_unit

CELLS, ENLARGED, TURN, STRIP_PX = 7, 4, 97.0, 250
GLASS, GLASS_COLOUR = (242, 242, 242), 20
"""What lies beyond the mosaic, and how coloured a tile must be anywhere to be more than glass."""


def mosaics(folder: Path) -> tuple[RGB, RGB]:
    """Drawn pairs side by side, in register, at `MPP`: H&E and IHC, each a square of `CELLS` by `CELLS` pairs."""
    seeds = seeds_in(folder)
    if len(seeds) < TISSUES:
        raise SystemExit(f"{folder} holds {len(seeds)} pairs; draw {TISSUES} with registration_slides.py first")
    cells = []
    for seed in seeds[:TISSUES]:
        pair = drawn(seed)
        with open_slide(files(folder, seed)[0]) as he, open_slide(files(folder, seed)[1]) as ihc:
            first, second = (slide.read((0, 0), slide.size, slide.mpp) for slide in (he, ihc))
            source = Raster(0, 0, *ihc.size, ihc.mpp)
        places = places_between(pair.he_to_ihc, Raster(0, 0, SIDE_PX, SIDE_PX, MPP))
        cells.append((first, warp(second, source, places)[0]))
    side = CELLS * SIDE_PX
    both = np.empty((side, side, 3), np.uint8), np.empty((side, side, 3), np.uint8)
    for index in range(CELLS**2):
        y, x = (n * SIDE_PX for n in divmod(index, CELLS))
        way, pair_images = index // TISSUES, cells[index % TISSUES]
        for whole, image in zip(both, pair_images, strict=True):
            turned = np.rot90(image, way % 4)
            whole[y : y + SIDE_PX, x : x + SIDE_PX] = turned[:, ::-1] if way >= 4 else turned
    return both


def moved_back(mosaic: RGB, back: Callable[[Floats], Floats], side: int) -> RGB:
    """A mosaic on a square of another section, from which `back` leads to it in µm; in strips."""
    moved = np.empty((side, side, 3), np.uint8)
    source = Raster(0, 0, len(mosaic), len(mosaic), MPP)
    for top in range(0, side, STRIP_PX):
        height = min(STRIP_PX, side - top)
        places = places_between(back, Raster(0, top * MPP, side, height, MPP))
        low = np.clip(np.floor(places.min((1, 2)) / MPP).astype(int) - 2, 0, len(mosaic))
        high = np.clip(np.ceil(places.max((1, 2)) / MPP).astype(int) + 2, 0, len(mosaic))
        part = mosaic[low[1] : high[1], low[0] : high[0]]
        if min(part.shape[:2]) < 2:
            moved[top : top + height] = GLASS
            continue
        source = Raster(low[0] * MPP, low[1] * MPP, part.shape[1], part.shape[0], MPP)
        rgb, covered = warp(part, source, places)
        rgb[~covered] = GLASS
        moved[top : top + height] = rgb
    return moved


def enlarged(mosaic: RGB) -> Callable[[int, int, int, int], RGB | None]:
    """Tiles of a mosaic, `ENLARGED` times as large."""

    def tile(x: int, y: int, width: int, height: int) -> RGB | None:
        left, top = x // ENLARGED, y // ENLARGED
        part = mosaic[top : top + height // ENLARGED + 2, left : left + width // ENLARGED + 2]
        if not part.size or int(np.ptp(part[::4, ::4].astype(int), axis=2).max()) < GLASS_COLOUR:
            return None
        size = part.shape[1] * ENLARGED, part.shape[0] * ENLARGED
        return np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BICUBIC))[:height, :width]

    return tile


def large_lie() -> tuple[Affine, int, int]:
    """How the section of the large pair lies; the sides of both slides in px of the mosaic."""
    side = CELLS * SIDE_PX
    turn = np.radians(TURN)
    other = round(side * (abs(np.cos(turn)) + abs(np.sin(turn))))
    return turned_about(TURN, False, 1.0, np.full(2, side * MPP / 2), other * MPP), side, other


def speed(folder: Path) -> None:
    """Register a pair of 42,000 px in a process of its own: a mosaic of drawn pairs, turned, bent and enlarged."""
    affine, _, other = large_lie()
    he, ihc = folder / "large_he.ome.tif", folder / "large_ihc.ome.tif"
    if not ihc.exists():
        first, second = mosaics(folder)
        second = moved_back(second, unbent(affine.inverse), other)
        for path, image in ((he, first), (ihc, second)):
            size = len(image) * ENLARGED
            description = Description(path.name, MPP / ENLARGED)
            write_slide(path, (size, size), enlarged(image), description, background=GLASS, tile_px=2048, threads=1)
    subprocess.run([sys.executable, __file__, "register", str(folder)], check=True)


def timed(folder: Path) -> None:
    """Register the large pair; time and memory of this process."""
    affine, side, _ = large_lie()
    start, cpu = time.perf_counter(), time.process_time()
    with open_slide(folder / "large_he.ome.tif") as he, open_slide(folder / "large_ihc.ome.tif") as ihc:
        found = register(he, ihc, Demands(least_detail=0.0), threads=2)  # enlarged, it has no fine detail
        sizes = he.size, ihc.size
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    x, y = np.meshgrid(*(np.linspace(0.1, 0.9, 21) * side * MPP,) * 2)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points = points[found.he.on_tissue(points)]
    error = np.hypot(*(found.transform(points) - affine(bent(points))).T)
    print(f"{sizes[0]} and {sizes[1]} px: {seconds:.0f} s, {cpu_s:.0f} s of CPU in 2 threads")
    print(f"median error {np.median(error):.2f} µm, worst tenth from {np.quantile(error, 0.9):.2f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


def turned_about(degrees: float, mirror: bool, scale: float, middle: Floats, side: float) -> Affine:
    """Mirror, turn and scale about a place, which comes to lie in the middle of a square; µm."""
    turn = np.radians(degrees)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = scale * rotation @ np.diag([-1 if mirror else 1, 1])
    return Affine(np.column_stack([linear, np.full(2, side / 2) - linear @ middle]))


def against_copy(path: Path) -> None:
    """Register a slide with a copy of itself: turned, mirrored, bent, rescaled, and recoloured as IHC."""
    with open_slide(path) as slide, tempfile.TemporaryDirectory() as name:
        mpp = slide.mpp
        rgb = slide.read((0, 0), slide.size, mpp)
        for degrees, mirror, scale, copy_mpp in (
            (0, False, 1.0, mpp),
            (37, False, 1.0, 0.62),
            (141, True, 0.7, 0.5),
            (-65, False, 1.5, 0.9),
        ):
            side = float(np.hypot(*rgb.shape[:2])) * mpp * scale
            size = round(side / copy_mpp)
            affine = turned_about(degrees, mirror, scale, np.array(slide.size) * mpp / 2, side)
            back = unbent(affine.inverse)
            places = places_on(back, Raster(0, 0, size, size, copy_mpp))
            ihc, covered = warp(recoloured(rgb), Raster(0, 0, slide.size[0], slide.size[1], mpp), places)
            ihc[~covered] = 242
            target = Path(name) / "copy.ome.tif"
            target.unlink(missing_ok=True)
            write_image(target, ihc, copy_mpp)
            found, row = attempt(path, target)
            if found is not None:
                x, y = np.meshgrid(*(np.linspace(0.2, 0.8, 9) * length * mpp for length in slide.size))
                points = np.stack([x.ravel(), y.ravel()], axis=1)
                error = np.hypot(*(found.transform(points) - affine(bent(points))).T) / scale
                row |= {"error_um": round(float(np.median(error)), 2), "worst_um": round(float(error.max()), 2)}
            print({"degrees": degrees, "mirror": mirror, "scale": scale, "mpp": copy_mpp, **row}, flush=True)


def bent(points: Floats) -> Floats:
    """A bend of up to 15 µm."""
    return points + 15 * np.sin(points[:, ::-1] / 250)


def unbent(first: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """A map, followed by the way back from the bend."""

    def back(points: Floats) -> Floats:
        wanted = first(points)
        found = wanted
        for _ in range(30):
            found = wanted - (bent(found) - found)
        return found

    return back


def recoloured(rgb: RGB) -> RGB:
    """H&E drawn as IHC: haematoxylin as a bluer counterstain, little of the eosin, and patches of DAB."""
    density = rgb_to_hed(to_unit(to_tensor(rgb))) * HED_UNIT
    rng = np.random.default_rng(0)
    patches = ndimage.zoom(rng.normal(size=(12, 12)), (rgb.shape[0] / 12, rgb.shape[1] / 12), order=3)
    patches = torch.from_numpy(np.clip(patches[: rgb.shape[0], : rgb.shape[1]], 0, None)).float()
    haematoxylin = 0.6 * density[:, 0] + 0.1 * density[:, 1]
    amounts = torch.stack([haematoxylin, 1.2 * patches * density[:, 0]], dim=1)
    light = beer_lambert(amounts, torch.tensor([[0.70, 0.64, 0.32], [0.27, 0.57, 0.78]]))[0]
    return (light.permute(1, 2, 0).numpy() * 242).clip(0, 255).astype(np.uint8)


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "copy", "register"])
    parser.add_argument("place", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "speed":
        speed(given.place)
    elif given.what == "register":
        timed(given.place)
    else:
        against_copy(given.place)


if __name__ == "__main__":
    main()
