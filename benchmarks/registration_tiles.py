"""How far from the truth are aligned tiles, and which pairs are believed? On data whose displacement is known.

    python benchmarks/registration_tiles.py DATA [--every 4]

DATA has the layout of MIST and, beside its folders, `displacement/NAME.npy` (dx, dy in px, 2 x 64 x 64), as drawn by
`restain phantom`. Shuffled pairs take the IHC of another tile, and of another field where names tell it (`1_FIELD_2+`).
"""

import argparse
import time
from pathlib import Path

import numpy as np

from restain.data.layouts import find_layout
from restain.image import to_tensor
from restain.registration.field import Field
from restain.registration.tiles import Alignment, align_tile


def field_of_view(name: str) -> str:
    """What overlapping crops share of their names."""
    parts = name.split("_")
    return "_".join(parts[1:-1]) or name


def missed(field: Field, truth: np.ndarray, side_px: int) -> float:
    """Median distance between found and true displacement, in px."""
    points = np.linspace(0.5, side_px - 0.5, truth.shape[-1])
    places = np.stack(np.meshgrid(points, points), -1).reshape(-1, 2)
    return float(np.median(np.linalg.norm(field.displacement(places) - truth.reshape(2, -1).T, axis=1)))


def main() -> None:
    """Print residuals, times, determinants, and how many true and shuffled pairs are believed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take every n-th pair")
    options = parser.parse_args()
    layout = find_layout(options.root)
    pairs = [pair for part in layout.parts for pair in layout.pairs(part)][:: options.every]
    base = pairs[0].he.parent.parent
    draws = np.random.default_rng(0)
    residuals, seconds, true, shuffled = [], [], list[Alignment](), list[Alignment]()
    for pair in pairs:
        he, ihc = (to_tensor(image) for image in pair.load())
        began = time.process_time()
        true.append(align_tile(he, ihc))
        seconds.append(time.process_time() - began)
        truth = np.load(base / "displacement" / f"{pair.name}.npy").astype(float)
        residuals.append(missed(true[-1].field, truth, he.shape[-1]))
        others = [other for other in pairs if field_of_view(other.name) != field_of_view(pair.name)]
        shuffled.append(align_tile(he, to_tensor(others[draws.integers(len(others))].load_ihc())))
    believed = [residual for residual, found in zip(residuals, true, strict=True) if not found.why_not]
    worst = np.quantile(residuals, 0.9)
    print(f"{len(pairs)} pairs: residual {np.median(residuals):.2f} px in the median, from {worst:.2f}")
    print(f"in the worst tenth; of those believed {np.median(believed):.2f} and {np.quantile(believed, 0.9):.2f}")
    print(f"smallest determinant {min(found.figures.smallest_determinant for found in true):.2f}")
    print(f"CPU seconds per pair: {np.mean(seconds):.2f}")
    accepted = sum(not found.why_not for found in shuffled)
    print(f"believed: {len(believed)} of {len(true)} true, {accepted} of {len(shuffled)} shuffled")


if __name__ == "__main__":
    main()
