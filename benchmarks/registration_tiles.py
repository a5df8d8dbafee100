"""How far from the truth are aligned tiles, and which pairs are believed? On data whose displacement is known.

python benchmarks/registration_tiles.py measure DATA LOG [--closer 3]  residual, time, folds; shuffled pairs
python benchmarks/registration_tiles.py spoil DATA LOG [--every 8]     blank, blurred, half, mirrored: believed?

DATA has the layout of MIST and, beside its folders, `displacement/NAME.npy` (dx, dy in px, 2 x 64 x 64), as drawn by
`restain phantom`. Where it also has `trainB_aligned`, the H&E is registered with those tiles as well: how far they are
off is the truth's own error, and the residual is told again without it. That error is found in two ways: by the method
that is judged, and by the block matching of slides, which shares nothing with it but the fit of a field. Shuffled pairs
take the IHC of another tile, and of another field where names tell it (`1_FIELD_2+`). LOG takes a line for each pair;
the same command resumes.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from restain.data.layouts import find_layout
from restain.data.partners import PairFiles
from restain.image import RGB, to_tensor
from restain.registration.field import Affine, Field, Floats, Map, Raster
from restain.registration.fitting import fit_field
from restain.registration.matching import match_blocks
from restain.registration.overview import shrunk, structure_of
from restain.registration.tiles import Alignment, align_tile

IN_REGISTER_PX = 0.6
"""A tile of `*_aligned` is called in register if it is off by less in the median."""


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


def missed(found: Map, truth: Floats, side_px: int, offset: Map = lambda points: points) -> float:
    """Median distance between where places were found and where they truly lie, in px.

    Args:
        found: from the H&E to the displaced IHC.
        truth: from the IHC in register to the displaced IHC, as `true_displacement`.
        side_px: of the tile.
        offset: from the H&E to the IHC that is called in register.
    """
    points = lattice(truth, side_px)
    on_aligned = offset(points)
    places = ((on_aligned - 0.5) / (side_px - 1) * (truth.shape[-1] - 1)).T[::-1]
    shift = [ndimage.map_coordinates(part, places, order=1, mode="nearest") for part in truth]
    return float(np.median(np.linalg.norm(found(points) - on_aligned - np.stack(shift, axis=1), axis=1)))


def offset_by_blocks(he: RGB, aligned: RGB) -> Field:
    """From the H&E to the IHC that is called in register, by matching blocks of haematoxylin."""
    box = Raster(0, 0, he.shape[1], he.shape[0], 1.0)
    first, second = (shrunk(structure_of(image, box), 2) for image in (he, aligned))
    matches = match_blocks(first, second, Affine.identity(), block_px=40, step_px=16, reach_px=16)
    return fit_field(matches, box, 64.0, 30.0, 2.5).field


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
    return {"believed": not found.why_not, "why": found.why_not, "agreement": round(figures.agreement, 3)}


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
        judge = pair.in_register()
        if index % closer == 0 and judge is not None:
            field = offset_by_blocks(pair.load_he(), judge.load_ihc())
            row["offset_by_blocks"] = float(np.median(np.hypot(*field.on(Raster(0, 0, 64, 64, side_px / 64)))))
            row["residual_without_offset_by_blocks"] = missed(found.field, truth, side_px, field)
            offset = align_tile(he, to_tensor(judge.load_ihc()))
            if not offset.why_not:
                shift = offset.field.displacement(lattice(truth, side_px))
                row["offset"] = float(np.median(np.linalg.norm(shift, axis=1)))
                row["residual_without_offset"] = missed(found.field, truth, side_px, offset.field)
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
    print(f"residual: {spread([row['residual'] for row in rows])}")
    print(f"  of those believed: {spread([row['residual'] for row in rows if row['believed']])}")
    if judged := [row for row in rows if "offset_by_blocks" in row]:
        print(f"by blocks, the IHC called in register is off: {spread([row['offset_by_blocks'] for row in judged])}")
        print(f"residual without that: {spread([row['residual_without_offset_by_blocks'] for row in judged])}")
    if judged := [row for row in rows if "offset" in row]:
        print(
            f"the IHC called in register is off on {len(judged)} believed: {spread([row['offset'] for row in judged])}"
        )
        print(f"residual without that: {spread([row['residual_without_offset'] for row in judged])}")
        register = [row["residual"] for row in judged if row["offset"] < IN_REGISTER_PX]
        print(f"off by less than {IN_REGISTER_PX} px: {len(register)} pairs; their residual: {spread(register)}")
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
    parser.add_argument(
        "--closer", type=int, default=1, help="of every n-th, also the truth's error and a shuffled pair"
    )
    given = parser.parse_args()
    pairs = pairs_of(given.root, given.every)
    if given.what == "measure":
        measure(pairs, given.log, given.closer)
    else:
        spoil(pairs, given.log)


if __name__ == "__main__":
    main()
