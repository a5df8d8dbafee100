"""How far from the truth are aligned tiles, and which pairs are believed? On data whose displacement is known.

python benchmarks/registration_tiles.py measure DATA LOG [--closer 3]  residual, time, folds; shuffled pairs
python benchmarks/registration_tiles.py spoil DATA LOG [--every 8]     blank, blurred, half, mirrored: believed?

DATA has the layout of MIST and, beside its folders, `displacement/NAME.npy` (dx, dy in px, 2 x 64 x 64), as drawn by
`restain phantom`. The residual is told over the whole tile and where the H&E has tissue and the IHC was not cut off:
nothing shows where bare glass was displaced to. Where DATA also has `trainB_aligned`, those tiles need not lie on the
H&E exactly. How far they are off is found by an exhaustive search that shares nothing with the method: squares of the
H&E are sought at every shift by the correlation of red channels, which nuclei darken on both sides; no colours are
unmixed, nothing is fitted or smoothed. The residual is told again at those squares, without the truth's own error.
Shuffled pairs take the IHC of another tile, and of another field where names tell it (`1_FIELD_2+`). LOG takes a line
for each pair; the same command resumes.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from restain.data.layouts import find_layout
from restain.data.partners import PairFiles
from restain.image import RGB, to_tensor
from restain.registration.channels import shared_channels
from restain.registration.field import Floats, Map
from restain.registration.matching import correlation, highest, squares
from restain.registration.tiles import WORK_PX, Alignment, align_tile
from restain.registration.verdict import anything

SQUARE_PX, STEP_PX, REACH_PX = 96, 48, 32
"""Squares of the exhaustive search, how far apart they lie and how far they are sought, in px."""
LEAST_FIT, LEAST_LEAD, LEAST_SQUARES = 0.5, 0.1, 5
"""What a square must correlate by; by how much it must exceed any place a quarter of its side away; how many squares a
tile must have."""


def pairs_of(root: Path, every: int) -> list[PairFiles]:
    """Every n-th pair of a data set."""
    layout = find_layout(root)
    return [pair for part in layout.parts for pair in layout.pairs(part)][::every]


def field_of_view(name: str) -> str:
    """What overlapping crops share of their names."""
    parts = name.split("_")
    return "_".join(parts[1:-1]) or name


def true_displacement(pair: PairFiles) -> Floats:
    """(dx, dy) in px, 2 x 64 x 64."""
    return np.asarray(np.load(pair.he.parent.parent / "displacement" / f"{pair.name}.npy"), np.float64)


def lattice(truth: Floats, side_px: int) -> Floats:
    """Where the displacement is known, N x 2 in px."""
    points = np.linspace(0.5, side_px - 0.5, truth.shape[-1])
    return np.stack(np.meshgrid(points, points), -1).reshape(-1, 2)


def truly_at(points: Floats, truth: Floats, side_px: int) -> Floats:
    """Where places of the IHC in register lie in the displaced IHC, N x 2 in px.

    Args:
        points: N x 2 in px.
        truth: as `true_displacement`.
        side_px: of the tile.
    """
    places = ((points - 0.5) / (side_px - 1) * (truth.shape[-1] - 1)).T[::-1]
    shift = [ndimage.map_coordinates(part, places, order=1, mode="nearest") for part in truth]
    return points + np.stack(shift, axis=1)


def missed(found: Map, truth: Floats, side_px: int) -> float:
    """Median distance between where places were found and where they truly lie, in px, over the whole tile."""
    points = lattice(truth, side_px)
    return float(np.median(np.linalg.norm(found(points) - truly_at(points, truth, side_px), axis=1)))


def missed_on_tissue(found: Map, truth: Floats, he: Tensor) -> float | None:
    """The same where the H&E has tissue and the truth lies inside the tile of the IHC; None if that is nowhere."""
    side_px = he.shape[-1]
    points = lattice(truth, side_px)
    wanted = truly_at(points, truth, side_px)
    channels = shared_channels(he, WORK_PX)
    tissue = anything(channels)
    column, row = (points / channels.pitch).astype(int).clip(0, len(tissue) - 1).T
    seen = tissue[row, column] & (wanted >= 0).all(1) & (wanted <= side_px).all(1)
    return float(np.median(np.linalg.norm(found(points) - wanted, axis=1)[seen])) if seen.any() else None


def searched(he: RGB, aligned: RGB) -> tuple[Floats, Floats]:
    """Places of an H&E and where an exhaustive search finds them on the IHC in register, in px, N x 2 each."""
    first, second = (torch.from_numpy(255.0 - image[..., 0]).float() for image in (he, aligned))
    around, half = SQUARE_PX + 2 * REACH_PX, SQUARE_PX // 2
    surface = correlation(
        squares(first, SQUARE_PX, STEP_PX, half),
        squares(torch.ones_like(first), SQUARE_PX, STEP_PX, half),
        squares(second, around, STEP_PX, half + REACH_PX),
        squares(torch.ones_like(second), around, STEP_PX, half + REACH_PX),
        0.9,
    )
    shift, height, other = highest(surface, SQUARE_PX // 4)
    shift = shift - REACH_PX
    counts = (height >= LEAST_FIT) & (height - other >= LEAST_LEAD) & (shift.abs() < REACH_PX - 1).all(1)
    rows, columns = (torch.arange(0, side, STEP_PX) for side in first.shape)
    middles = torch.cartesian_prod(rows, columns).flip(1)[counts].double().numpy()
    return middles, middles + shift[counts].double().numpy()


def logged(log: Path, key: str) -> dict[str, dict[str, Any]]:
    """What a log holds, by key."""
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return {row[key]: row for row in rows}


def note(log: Path, row: dict[str, Any]) -> None:
    """Add a line to a log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(json.dumps(row) + "\n")


def verdict(found: Alignment) -> dict[str, Any]:
    """What is written down of a pair."""
    figures = found.figures
    return {
        "believed": not found.why_not,
        "why": found.why_not,
        "agreement": round(figures.agreement, 3),
        "blocks": figures.blocks,
        "matched_blocks": figures.matched_blocks,
        "residual_px": round(figures.residual_px, 2),
    }


def measure(pairs: Sequence[PairFiles], log: Path, closer: int) -> None:
    """Align true pairs; and every n-th also with the IHC in register and with that of another field."""
    draws = np.random.default_rng(0)
    before = logged(log, "name")
    for index, pair in enumerate(pairs):
        others = [other for other in pairs if field_of_view(other.name) != field_of_view(pair.name)]
        other = others[draws.integers(len(others))]
        if pair.name in before:
            continue
        he, ihc = (to_tensor(image) for image in pair.load())
        began = time.process_time()
        found = align_tile(he, ihc)
        row = {"name": pair.name, "cpu_s": round(time.process_time() - began, 2), **verdict(found)}
        truth, side_px = true_displacement(pair), he.shape[-1]
        row["before"] = float(np.median(np.hypot(*truth)))
        row["residual"] = missed(found.field, truth, side_px)
        row["determinant"] = found.figures.smallest_determinant
        row["residual_on_tissue"] = missed_on_tissue(found.field, truth, he)
        if judge := pair.in_register():
            places, on_aligned = searched(pair.load_he(), judge.load_ihc())
            row["squares"] = len(places)
            if len(places) >= LEAST_SQUARES:
                wanted = truly_at(on_aligned, truth, side_px)
                row["offset"] = float(np.median(np.linalg.norm(on_aligned - places, axis=1)))
                row["residual_at_squares"] = float(np.median(np.linalg.norm(found.field(places) - wanted, axis=1)))
        if index % closer == 0:
            row["shuffled"] = verdict(align_tile(he, to_tensor(other.load_ihc())))
        note(log, row)
    report([row for name, row in logged(log, "name").items() if name in {pair.name for pair in pairs}])


def spread(values: Sequence[float]) -> str:
    """Median and worst tenth."""
    if not values:
        return "no pair"
    return f"{np.median(values):.2f} px in the median, from {np.quantile(values, 0.9):.2f} in the worst tenth"


def report(rows: Sequence[dict[str, Any]]) -> None:
    """Print what a log of `measure` says."""
    print(f"{len(rows)} pairs: {spread([row['before'] for row in rows])} before")
    for words, some in (("all", rows), ("believed", [row for row in rows if row["believed"]])):
        print(f"{words}, {len(some)} pairs")
        print(f"  residual: {spread([row['residual'] for row in some])}")
        on_tissue = [row["residual_on_tissue"] for row in some if row["residual_on_tissue"] is not None]
        print(f"  residual on tissue: {spread(on_tissue)}")
        if judged := [row for row in some if "offset" in row]:
            print(f"  {len(judged)} pairs with squares that the search finds:")
            print(f"    the IHC called in register is off: {spread([row['offset'] for row in judged])}")
            print(f"    residual without that: {spread([row['residual_at_squares'] for row in judged])}")
    print(f"smallest determinant {min(row['determinant'] for row in rows):.2f}")
    print(f"CPU seconds per pair: {np.mean([row['cpu_s'] for row in rows]):.2f}")
    shuffled = [row["shuffled"]["believed"] for row in rows if "shuffled" in row]
    believed = sum(row["believed"] for row in rows)
    print(f"believed: {believed} of {len(rows)} true, {sum(shuffled)} of {len(shuffled)} shuffled")
    for why in sorted({row["why"] for row in rows if row["why"]}):
        print(f"  refused: {why}")


def spoilt(ihc: RGB) -> Iterator[tuple[str, RGB]]:
    """An IHC in ways that should be refused."""
    glass = np.quantile(ihc.reshape(-1, 3), 0.98, axis=0).round().astype(np.uint8)
    yield "blank", np.broadcast_to(glass, ihc.shape).copy()
    for sigma in (4, 8):
        yield f"blurred by {sigma} px", ndimage.gaussian_filter(ihc, (sigma, sigma, 0))
    for share in (0.5, 0.7):
        covered = ihc.copy()
        covered[:, : round(share * ihc.shape[1])] = glass
        yield f"{share:.0%} covered", covered
    yield "mirrored", np.ascontiguousarray(ihc[:, ::-1])
    yield "as it is", ihc


def spoil(pairs: Sequence[PairFiles], log: Path) -> None:
    """Align pairs whose IHC is spoilt."""
    before = logged(log, "what")
    for pair in pairs:
        he, ihc = pair.load()
        for way, image in spoilt(ihc):
            if f"{pair.name} {way}" not in before:
                found = align_tile(to_tensor(he), to_tensor(image))
                note(log, {"what": f"{pair.name} {way}", "way": way, **verdict(found)})
    rows = logged(log, "what").values()
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        print(f"{way}: {sum(row['believed'] for row in own)} of {len(own)} believed")
        starts = [str(row["why"]).partition(":")[0] for row in own if row["why"]]
        for start in sorted(set(starts), key=starts.count, reverse=True)[:3]:
            example = next(row["why"] for row in own if str(row["why"]).startswith(start))
            print(f"  {starts.count(start)} times, such as: {example}")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["measure", "spoil"])
    parser.add_argument("root", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th pair")
    parser.add_argument("--closer", type=int, default=1, help="of every n-th, also a shuffled pair")
    given = parser.parse_args()
    pairs = pairs_of(given.root, given.every)
    if given.what == "measure":
        measure(pairs, given.log, given.closer)
    else:
        spoil(pairs, given.log)


if __name__ == "__main__":
    main()
