"""How well slides are registered: drawn pairs with a known transform, shuffled pairs, spoilt slides, a large pair.

python benchmarks/registration_slides.py draw FOLDER [--pairs 100]     draw random pairs of slides of 3 mm, once
python benchmarks/registration_slides.py find FOLDER                   register each pair; error in µm
python benchmarks/registration_slides.py shuffle FOLDER [--pairs 100]  pairs that do not belong together: accepted?
python benchmarks/registration_slides.py spoil FOLDER [--pairs 10]     blank, blurred, partial, mirrored: accepted?
python benchmarks/registration_slides.py speed FOLDER                  a pair of 40,000 px: time and memory
python benchmarks/registration_slides.py copy SLIDE                    against a turned, rescaled, recoloured copy
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from restain.data.phantom import NeighbourSettings, PhantomNeighbour, PhantomSlide, Section, Tissue, Window
from restain.data.phantom.cells import Population
from restain.data.phantom.paint import Layers
from restain.errors import InputError
from restain.image import RGB, to_tensor
from restain.registration.field import Affine, Floats, Raster
from restain.registration.slides import Demands, register
from restain.registration.warp import places_on, warp
from restain.slides.reader import open_slide
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.stains import HED_UNIT, Marker, beer_lambert, rgb_to_hed, to_unit

SIDE_PX, MPP = 1500, 2.0
TISSUES = 10
"""That all pairs are cut from, as drawing takes more time than all else; each is drawn once for either section."""
LARGE_PX, ENLARGED = 10_000, 4


class KeptTissue(Tissue):
    """The tissue of one slide, drawn once at one resolution; windows are cut from it."""

    def __init__(self, tissue: Tissue, corner: tuple[int, int], side_px: int) -> None:
        super().__init__(
            tissue.seed, tissue.marker, tissue.mpp, tissue.coverage, tissue.anatomy.island_um, tissue.anatomy.frame_um
        )
        self.corner, self.side_px = corner, side_px
        self.kept: dict[float, NDArray[np.float32]] = {}

    def at(self, mpp: float) -> Tissue:
        """Itself, or another one for another resolution."""
        return self if abs(mpp - self.mpp) < 1e-9 else super().at(mpp)

    def draw(self, window: Window, depth_um: float = 0.0) -> Section:
        """As `Tissue.draw`, without cells."""
        if depth_um not in self.kept:
            whole = np.zeros((3, self.side_px, self.side_px), np.float32)
            for y in range(0, self.side_px, 500):
                for x in range(0, self.side_px, 500):
                    part = Window(self.corner[0] + x, self.corner[1] + y, 500, 500)
                    whole[:, y : y + 500, x : x + 500] = super().draw(part, depth_um).layers
            self.kept[depth_um] = whole
        left, top = window.x - self.corner[0], window.y - self.corner[1]
        rows, columns = np.arange(top, top + window.height), np.arange(left, left + window.width)
        inside = [(places >= 0) & (places < self.side_px) for places in (rows, columns)]
        layers = np.zeros((3, window.height, window.width), np.float32)
        layers[:, inside[0][:, None] & inside[1]] = self.kept[depth_um][:, rows[inside[0]]][
            :, :, columns[inside[1]]
        ].reshape(3, -1)
        return Section(Layers(*layers), Population(*(np.zeros(0),) * 10))


@cache
def tissue_of(number: int) -> PhantomSlide:
    """One of the tissues that all pairs are cut from."""
    rng = np.random.default_rng(1000 + number)
    marker: Marker = "membrane" if rng.integers(2) else "nuclear"
    slide = PhantomSlide(number, SIDE_PX, marker, MPP, float(rng.uniform(0.25, 0.45)), framed=True)
    slide.tissue = KeptTissue(slide.tissue, slide.corner, SIDE_PX)
    return slide


def drawn(seed: int) -> PhantomNeighbour:
    """A pair of slides at random: angle, mirror, scale 0.5 to 2, bend, and what else lies there."""
    rng = np.random.default_rng(seed)
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(2))))
    settings = NeighbourSettings(
        mpp=MPP * scale,
        angle=float(rng.uniform(-180, 180)),
        mirror=bool(rng.integers(2)),
        scale=scale,
        bend_um=float(rng.uniform(0, 60)),
        control=bool(rng.integers(2)),
        pen=bool(rng.random() < 0.3),
        black_edge=bool(rng.random() < 0.3),
    )
    slide = copy(tissue_of(seed % TISSUES))
    slide.seed = seed
    return PhantomNeighbour(slide, settings)


def files(folder: Path, seed: int) -> tuple[Path, Path]:
    """The slides of a drawn pair."""
    return folder / f"{seed:03d}-he.ome.tif", folder / f"{seed:03d}-ihc.ome.tif"


def draw(folder: Path, seeds: range) -> None:
    """Draw the pairs that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        pair = drawn(seed)
        sizes = (SIDE_PX, SIDE_PX), pair.size
        for path, tile, size, mpp, glass in zip(
            files(folder, seed),
            (pair.he, pair.ihc),
            sizes,
            (MPP, pair.mpp),
            (pair.slide.he_glass, pair.glass),
            strict=True,
        ):
            if not path.exists():
                write_slide(path, size, tile, Description(path.name, mpp), background=glass, threads=1)
        print(f"{seed:03d}", pair.settings, flush=True)


def found_before(log: Path, key: str) -> dict[str, dict[str, Any]]:
    """What a log holds, by key."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {row[key]: row for row in rows}


def note(log: Path, row: dict[str, Any]) -> None:
    """Add a line to a log and print it."""
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(row, flush=True)


def seeds_in(folder: Path) -> list[int]:
    """The pairs that were drawn."""
    return sorted(int(path.name[:3]) for path in folder.glob("*-ihc.ome.tif"))


def attempt(he: Path, ihc: Path, demands: Demands | None = None) -> tuple[Any, dict[str, Any]]:
    """Register two slides; the result or None, and what to write down."""
    start = time.process_time()
    with open_slide(he) as first, open_slide(ihc) as second:
        try:
            found = register(first, second, demands)
        except InputError as error:
            return None, {"accepted": False, "why": str(error), "cpu_s": round(time.process_time() - start, 1)}
    figures = {name: round(value, 3) for name, value in found.transform.figures.items()}
    return found, {"accepted": True, **figures, "cpu_s": round(time.process_time() - start, 1)}


def find(folder: Path, seeds: list[int]) -> None:
    """Register each pair and measure the error at its landmarks, in µm of tissue."""
    log = folder / "found.jsonl"
    before = found_before(log, "seed")
    for seed in seeds:
        if seed in before:
            continue
        pair = drawn(seed)
        found, row = attempt(*files(folder, seed))
        if found is not None:
            he, ihc = pair.landmarks(100)
            error = np.hypot(*(found.transform(he) - ihc).T) / pair.settings.scale
            row |= {"error_um": round(float(np.median(error)), 2), "high_um": round(float(np.quantile(error, 0.9)), 2)}
        note(log, {"seed": seed, **row})
    rows = [row for seed, row in found_before(log, "seed").items() if seed in seeds]
    errors = np.array([row.get("error_um", np.inf) for row in rows])
    print(
        f"{len(rows)} pairs: median error {np.median(errors):.2f} µm, worst tenth from {np.quantile(errors, 0.9):.2f};"
    )
    print(f"  within 1, 5 and 50 µm: {[int((errors <= limit).sum()) for limit in (1, 5, 50)]};")
    print(
        f"  refused: {sum(not row['accepted'] for row in rows)}; CPU {np.median([row['cpu_s'] for row in rows]):.0f} s"
    )


def shuffle(folder: Path, seeds: list[int], count: int) -> None:
    """Register the H&E of one pair with the IHC of another."""
    log = folder / "shuffled.jsonl"
    rng = np.random.default_rng(0)
    before = found_before(log, "pair")
    rows = []
    while len(rows) < count:
        first, second = (int(seed) for seed in rng.choice(seeds, 2, replace=False))
        key = f"{first}-{second}"
        if key in before:
            rows.append(before[key])
            continue
        _, row = attempt(files(folder, first)[0], files(folder, second)[1])
        rows.append({"pair": key, **row})
        note(log, rows[-1])
    print(f"{len(rows)} shuffled pairs: {sum(row['accepted'] for row in rows)} accepted")


def spoilt(rgb: RGB, glass: tuple[int, int, int], mpp: float) -> Iterator[tuple[str, RGB, Demands]]:
    """An IHC in ways that should be refused, and what is asked of it."""
    honest = Demands()
    yield "blank", np.full_like(rgb, glass), honest
    sigma = 4 / mpp
    yield "blurred by 4 µm", ndimage.gaussian_filter(rgb, (sigma, sigma, 0)), honest
    half = rgb.copy()
    tissue = np.flatnonzero((rgb.min(axis=2) < min(glass) - 30).sum(axis=0))
    half[:, int(np.quantile(tissue, 0.35)) :] = glass
    yield "a third of it", half, honest
    yield "mirrored, mirroring off", np.ascontiguousarray(rgb[:, ::-1]), replace(honest, mirror=False)
    yield "as it is", rgb, honest


def spoil(folder: Path, seeds: list[int]) -> None:
    """Register with spoilt IHC slides of pairs whose section is not mirrored."""
    log = folder / "spoilt.jsonl"
    before = found_before(log, "what")
    with tempfile.TemporaryDirectory() as name:
        for seed in seeds:
            pair = drawn(seed)
            with open_slide(files(folder, seed)[1]) as slide:
                rgb = slide.read((0, 0), slide.size, slide.mpp)
            for way, image, demands in spoilt(rgb, pair.glass, pair.mpp):
                if f"{seed} {way}" in before:
                    continue
                path = Path(name) / "ihc.ome.tif"
                path.unlink(missing_ok=True)
                write_image(path, image, pair.mpp)
                _, row = attempt(files(folder, seed)[0], path, demands)
                note(log, {"what": f"{seed} {way}", **row})
    rows = found_before(log, "what")
    for way in dict.fromkeys(what.partition(" ")[2] for what in rows):
        own = [row for what, row in rows.items() if what.partition(" ")[2] == way]
        print(f"{way}: {sum(row['accepted'] for row in own)} of {len(own)} accepted")


def write_image(path: Path, rgb: RGB, mpp: float) -> None:
    """Write an image as a slide."""

    def tile(x: int, y: int, width: int, height: int) -> RGB:
        return rgb[y : y + height, x : x + width]

    write_slide(path, (rgb.shape[1], rgb.shape[0]), tile, Description(path.name, mpp))


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
    parser.add_argument("what", choices=["draw", "find", "shuffle", "spoil", "speed", "copy"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first pair")
    given = parser.parse_args()
    if given.what not in ("speed", "draw"):
        torch.set_num_threads(1)
    seeds = (
        [seed for seed in seeds_in(given.folder) if seed >= given.first][: given.pairs] if given.folder.is_dir() else []
    )
    if given.what == "draw":
        draw(given.folder, range(given.first, given.first + given.pairs))
    elif given.what == "find":
        find(given.folder, seeds)
    elif given.what == "shuffle":
        shuffle(given.folder, seeds_in(given.folder), given.pairs)
    elif given.what == "spoil":
        spoil(given.folder, [seed for seed in seeds if not drawn(seed).settings.mirror])
    elif given.what == "speed":
        speed(given.folder)
    else:
        against_copy(given.folder)


if __name__ == "__main__":
    main()
