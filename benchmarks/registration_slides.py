"""How well slides are registered: drawn pairs with a known transform, shuffled pairs, spoilt slides.

python benchmarks/registration_slides.py draw FOLDER [--pairs 100]     draw random pairs of slides of 3 mm, once
python benchmarks/registration_slides.py find FOLDER                   register each pair; error in µm
python benchmarks/registration_slides.py move FOLDER                   tiles moved on purpose: which bars do they pass?
python benchmarks/registration_slides.py shuffle FOLDER [--pairs 100]  pairs that do not belong together: accepted?
python benchmarks/registration_slides.py spoil FOLDER [--pairs 10]     blank, blurred, partial, mirrored: accepted?
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from restain.data.phantom import NeighbourSettings, PhantomNeighbour, PhantomSlide, Section, Tissue, Window
from restain.data.phantom.cells import Population
from restain.data.phantom.paint import Layers
from restain.errors import InputError
from restain.image import RGB, atomic_path
from restain.registration.field import Affine
from restain.registration.slides import Demands, Registration, register
from restain.registration.tiling import CutSettings, TileFacts, cut_tile, plan_tiles
from restain.slides.reader import open_slide
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.stains import Marker

SIDE_PX, MPP = 1500, 2.0
TILE_PX = 128
"""Side of the tiles that are cut, at `MPP`."""
OFF_UM = 12.0
"""Tiles further off than this should not be written: as far as `pairs cut` lets blocks be apart."""
MOVED_UM = (0.0, 15.0, 40.0, 80.0)
PAIRS = 100
TISSUES = 10
"""That all pairs are cut from, as drawing takes more time than all else; each is drawn once for either section."""


class KeptTissue(Tissue):
    """The tissue of one slide, drawn once at one resolution and kept in a file; windows are cut from it."""

    def __init__(self, tissue: Tissue, corner: tuple[int, int], side_px: int, folder: Path | None) -> None:
        super().__init__(
            tissue.seed, tissue.marker, tissue.mpp, tissue.coverage, tissue.anatomy.island_um, tissue.anatomy.frame_um
        )
        self.corner, self.side_px, self.folder = corner, side_px, folder
        self.kept: dict[float, NDArray[np.float32]] = {}

    def at(self, mpp: float) -> Tissue:
        """Itself, or another one for another resolution."""
        return self if abs(mpp - self.mpp) < 1e-9 else super().at(mpp)

    def draw(self, window: Window, depth_um: float = 0.0) -> Section:
        """As `Tissue.draw`, without cells."""
        if depth_um not in self.kept:
            self.kept[depth_um] = self.whole(depth_um)
        left, top = window.x - self.corner[0], window.y - self.corner[1]
        rows, columns = np.arange(top, top + window.height), np.arange(left, left + window.width)
        inside = [(places >= 0) & (places < self.side_px) for places in (rows, columns)]
        layers = np.zeros((3, window.height, window.width), np.float32)
        layers[:, inside[0][:, None] & inside[1]] = self.kept[depth_um][:, rows[inside[0]]][
            :, :, columns[inside[1]]
        ].reshape(3, -1)
        return Section(Layers(*layers), Population(*(np.zeros(0),) * 10))

    def whole(self, depth_um: float) -> NDArray[np.float32]:
        """The three layers of everything, 3 x side x side; drawn where no file has them."""
        file = self.folder / f"tissue-{self.seed}-{depth_um:g}.npy" if self.folder else None
        if file is not None and file.exists():
            kept: NDArray[np.float32] = np.load(file)
            return kept
        whole = np.zeros((3, self.side_px, self.side_px), np.float32)
        for y in range(0, self.side_px, 500):
            for x in range(0, self.side_px, 500):
                part = Window(self.corner[0] + x, self.corner[1] + y, 500, 500)
                whole[:, y : y + 500, x : x + 500] = super().draw(part, depth_um).layers
        if file is not None:
            with atomic_path(file) as temporary, temporary.open("wb") as opened:
                np.save(opened, whole)
        return whole


@cache
def tissue_of(number: int, folder: Path | None = None) -> PhantomSlide:
    """One of the tissues that all pairs are cut from."""
    rng = np.random.default_rng(1000 + number)
    marker: Marker = "membrane" if rng.integers(2) else "nuclear"
    slide = PhantomSlide(number, SIDE_PX, marker, MPP, float(rng.uniform(0.25, 0.45)), framed=True)
    slide.tissue = KeptTissue(slide.tissue, slide.corner, SIDE_PX, folder)
    return slide


def drawn(seed: int, folder: Path | None = None) -> PhantomNeighbour:
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
    slide = copy(tissue_of(seed % TISSUES, folder))
    slide.seed = seed
    return PhantomNeighbour(slide, settings)


def files(folder: Path, seed: int) -> tuple[Path, Path]:
    """The slides of a drawn pair."""
    return folder / f"{seed:03d}-he.ome.tif", folder / f"{seed:03d}-ihc.ome.tif"


def draw(folder: Path, seeds: range) -> None:
    """Draw the pairs that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        if all(path.exists() for path in files(folder, seed)):
            continue
        pair = drawn(seed, folder)
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
            row |= {"landmarks_off": round(float((error > OFF_UM).mean()), 3), **written(folder, pair, found)}
        note(log, {"seed": seed, **row})
    report([row for seed, row in found_before(log, "seed").items() if seed in seeds])


def written(folder: Path, pair: PhantomNeighbour, found: Registration) -> dict[str, Any]:
    """Cut a pair into tiles, and measure the error of each at its middle and around: those written, those left out."""
    settings = CutSettings(mpp=MPP, size_px=TILE_PX, step_px=TILE_PX)
    lattice = (np.mgrid[0.1:0.9:5j, 0.1:0.9:5j].reshape(2, -1).T) * TILE_PX * MPP
    errors: dict[bool, list[float]] = {True: [], False: []}
    he, ihc = files(folder, pair.slide.seed)
    with open_slide(he) as first, open_slide(ihc) as second:
        for place in plan_tiles(first, found.he, found.shared, settings):
            facts, _ = cut_tile(first, second, found.transform, place, settings)
            points = lattice + np.array([place.box.x, place.box.y])
            error = np.hypot(*(found.transform(points) - pair.he_to_ihc(points)).T) / pair.settings.scale
            errors[not facts.why].append(round(float(np.median(error)), 2))
    return {"tiles_um": errors[True], "left_out_um": errors[False]}


def move(folder: Path, seeds: list[int]) -> None:
    """Cut pairs into tiles whose IHC is moved on purpose, and tell how many pass the bar of the residual, and both."""
    rng = np.random.default_rng(5)
    settings = CutSettings(mpp=MPP, size_px=TILE_PX, step_px=TILE_PX)
    facts: dict[float, list[TileFacts]] = {moved: [] for moved in MOVED_UM}
    for seed in seeds:
        he, ihc = files(folder, seed)
        with open_slide(he) as first, open_slide(ihc) as second:
            found = register(first, second)
            for place in plan_tiles(first, found.he, found.shared, settings):
                for moved in MOVED_UM:
                    turn = rng.uniform(0, 2 * np.pi)
                    shift = moved * found.transform.scale * np.array([np.cos(turn), np.sin(turn)])
                    matrix = found.transform.affine.matrix + np.column_stack([np.zeros((2, 2)), shift])
                    off = replace(found.transform, affine=Affine(matrix))
                    facts[moved].append(cut_tile(first, second, off, place, settings)[0])
        for moved, tiles in facts.items():
            seen = [tile for tile in tiles if np.isfinite(tile.correlation)]
            near = [tile for tile in seen if tile.residual_um <= settings.most_residual_um]
            both = sum(not tile.why for tile in seen)
            print(f"{seed}: moved by {moved:g} µm: {len(seen)} tiles, {len(near)} pass the residual, {both} all bars")


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print what a log of `find` says; a refused pair is off by more than any other."""
    errors = np.array([row.get("error_um", np.inf) for row in rows])
    tenth, middle = (np.quantile(errors, share, method="higher") for share in (0.9, 0.5))
    print(f"{len(rows)} pairs: median error {middle:.2f} µm, worst tenth from {tenth:.2f};")
    print(f"  within 1, 5 and 50 µm: {[int((errors <= limit).sum()) for limit in (1, 5, 50)]};")
    print(
        f"  refused: {sum(not row['accepted'] for row in rows)}; CPU {np.median([row['cpu_s'] for row in rows]):.0f} s"
    )
    tiles, left = (np.array([one for row in rows for one in row.get(key, [])]) for key in ("tiles_um", "left_out_um"))
    if len(tiles):
        print(f"{len(tiles)} tiles written: median error {np.median(tiles):.2f} µm, 99th percentile ", end="")
        print(f"{np.quantile(tiles, 0.99):.2f}; off by more than {OFF_UM:g} µm {(tiles > OFF_UM).sum()}")
        print(f"  {len(left)} left out; off by more {(left > OFF_UM).sum()}")
    for row in rows:
        if not row["accepted"] or row["error_um"] > 5:
            print(f"  {row['seed']}: {row.get('why') or row['error_um']}")


def shuffle(folder: Path, seeds: list[int], count: int) -> None:
    """Register the H&E of one pair with the IHC of another, of another tissue."""
    log = folder / "shuffled.jsonl"
    rng = np.random.default_rng(0)
    before = found_before(log, "pair")
    for _ in range(100 * count):
        first, second = (int(seed) for seed in rng.choice(PAIRS, 2, replace=False))
        key = f"{first}-{second}"
        if len(before) >= count:
            break
        if key in before or first % TISSUES == second % TISSUES or not {first, second} <= set(seeds):
            continue
        _, row = attempt(files(folder, first)[0], files(folder, second)[1])
        before[key] = {"pair": key, **row}
        note(log, before[key])
    rows = before.values()
    print(f"{len(rows)} shuffled pairs: {sum(row['accepted'] for row in rows)} accepted")
    print(f"  CPU {np.median([row['cpu_s'] for row in rows]):.0f} s")


def spoilt(rgb: RGB, glass: tuple[int, int, int], mpp: float) -> Iterator[tuple[str, RGB, Demands]]:
    """An IHC in ways that should be refused, and what is asked of it."""
    honest = Demands()
    yield "blank", np.full_like(rgb, glass), honest
    sigma = 3 * max(1.0, 1 / mpp)  # what counts as blur is seen at 1 µm per pixel, or at the slide's own if coarser
    yield "blurred by 3 px", ndimage.gaussian_filter(rgb, (sigma, sigma, 0)), honest
    half = rgb.copy()
    tissue = np.flatnonzero((rgb.min(axis=2) < min(glass) - 30).sum(axis=0))
    half[:, int(np.quantile(tissue, 0.35)) :] = glass
    yield "a third of it", half, honest
    yield "mirrored, mirroring off", np.ascontiguousarray(rgb[:, ::-1]), replace(honest, mirror=False)


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
        if refused := [row["why"] for row in own if not row["accepted"]]:
            print(f"  such as: {refused[0]}")


def write_image(path: Path, rgb: RGB, mpp: float) -> None:
    """Write an image as a slide."""

    def tile(x: int, y: int, width: int, height: int) -> RGB:
        return rgb[y : y + height, x : x + width]

    write_slide(path, (rgb.shape[1], rgb.shape[0]), tile, Description(path.name, mpp))


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "find", "move", "shuffle", "spoil"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--first", type=int, default=0, help="number of the first pair")
    given = parser.parse_args()
    if given.what != "draw":
        torch.set_num_threads(1)
    seeds = (
        [seed for seed in seeds_in(given.folder) if seed >= given.first][: given.pairs] if given.folder.is_dir() else []
    )
    if given.what == "draw":
        draw(given.folder, range(given.first, given.first + given.pairs))
    elif given.what == "find":
        find(given.folder, seeds)
    elif given.what == "move":
        move(given.folder, seeds)
    elif given.what == "shuffle":
        shuffle(given.folder, seeds_in(given.folder), given.pairs)
    else:
        spoil(given.folder, [seed for seed in seeds if not drawn(seed).settings.mirror])


if __name__ == "__main__":
    main()
