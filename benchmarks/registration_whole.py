"""Registration of a slide with a large one, and with a copy of itself.

python benchmarks/registration_whole.py speed FOLDER   a pair of 40,000 px: time and memory
python benchmarks/registration_whole.py copy SLIDE     against a turned, rescaled, bent, recoloured copy
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from registration_slides import MPP, attempt, write_image
from scipy import ndimage

from restain.data.phantom import NeighbourSettings, PhantomNeighbour, PhantomSlide
from restain.image import RGB, to_tensor
from restain.registration.field import Affine, Floats, Raster
from restain.registration.slides import Demands, register
from restain.registration.warp import places_on, warp
from restain.slides.reader import open_slide
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.stains import HED_UNIT, beer_lambert, rgb_to_hed, to_unit

LARGE_PX, ENLARGED = 10_000, 4


def speed(folder: Path) -> None:
    """Register a pair of 40,000 px: drawn at 2 µm and enlarged four times, as drawing it in full takes hours."""
    folder.mkdir(parents=True, exist_ok=True)
    slide = PhantomSlide(0, LARGE_PX, "membrane", MPP, 0.3, framed=True)
    pair = PhantomNeighbour(slide, NeighbourSettings(angle=37, bend_um=100, control=True))
    sides = ((slide.size_px, slide.size_px), pair.size)
    for path, draw_tile, size, glass in zip(
        (folder / "large-he.ome.tif", folder / "large-ihc.ome.tif"),
        (pair.he, pair.ihc),
        sides,
        (slide.he_glass, pair.glass),
        strict=True,
    ):
        if not path.exists():
            large = ENLARGED * size[0], ENLARGED * size[1]
            write_slide(
                path,
                large,
                enlarged(draw_tile),
                Description(path.name, MPP / ENLARGED),
                background=glass,
                tile_px=2048,
                job="one",
            )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.set_num_threads(1)
    start, cpu = time.perf_counter(), time.process_time()
    with open_slide(folder / "large-he.ome.tif") as he, open_slide(folder / "large-ihc.ome.tif") as ihc:
        found = register(he, ihc, Demands(least_detail=0.0), threads=2)
    seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    points, moved = pair.landmarks(200)
    error = np.hypot(*(found.transform(points) - moved).T)
    print(f"{he.size} px: {seconds:.0f} s, {cpu_s:.0f} s of CPU in 2 threads, median error {np.median(error):.2f} µm")
    print(
        f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB, {before / 2**20:.2f} before"
    )


def enlarged(tile: Callable[[int, int, int, int], RGB | None]) -> Callable[[int, int, int, int], RGB | None]:
    """Draw four times as large."""

    def draw_tile(x: int, y: int, width: int, height: int) -> RGB | None:
        small = tile(x // ENLARGED, y // ENLARGED, -(-width // ENLARGED), -(-height // ENLARGED))
        if small is None:
            return None
        size = small.shape[1] * ENLARGED, small.shape[0] * ENLARGED
        return np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))[:height, :width]

    return draw_tile


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
            turn = np.radians(degrees)
            rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            linear = scale * rotation @ np.diag([-1 if mirror else 1, 1])
            middle = np.array(slide.size) * mpp / 2
            affine = Affine(np.column_stack([linear, np.full(2, side / 2) - linear @ middle]))
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
    parser.add_argument("what", choices=["speed", "copy"])
    parser.add_argument("place", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "speed":
        speed(given.place)
    else:
        against_copy(given.place)


if __name__ == "__main__":
    main()
