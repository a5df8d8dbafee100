"""All metrics and Inception's features in one pass over the tiles, against a pass for each; memory as tiles grow.

python benchmarks/metrics.py [--tiles 1000] [--side-px 1024]

Inception's weights are random here: features cost the same with any. A tenth of the tiles is drawn, the others
link to these; the passes are compared over that tenth.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measure import cost

from restain.image import save_image
from restain.metrics import METRICS, Judges, evaluate
from restain.metrics.features import inception
from restain.metrics.tiles import pair_images, read_batches
from restain.networks.inception import FidInception


def draw(folder: Path, tiles: int, side_px: int) -> None:
    """Coarse colourful noise: real tiles, and virtual ones that differ a little; after a tenth of them they repeat."""
    random = np.random.default_rng(0)
    drawn = _tenth(tiles)
    for index in range(drawn):
        coarse = random.integers(60, 230, (side_px // 16, side_px // 16, 3))
        rgb = np.kron(coarse, np.ones((16, 16, 1), np.int64))
        for name in ("real", "virtual"):
            grainy = np.clip(rgb + random.normal(0, 8, rgb.shape), 0, 255).astype(np.uint8)
            save_image(folder / name / f"{index:05}.png", grainy)
    for index in range(drawn, tiles):
        for name in ("real", "virtual"):
            (folder / name / f"{index:05}.png").symlink_to(f"{index % drawn:05}.png")


def _tenth(tiles: int) -> int:
    return max(1, tiles // 10)


def together(folder: Path, tiles: int) -> Callable[[], object]:
    """What `restain evaluate` does, over the first tiles."""
    extractor = inception(folder / "inception.pth")
    subset = _link(folder, tiles)

    def run() -> None:
        evaluate(subset / "virtual", subset / "real", judges=Judges((extractor,)))

    return run


def apart(folder: Path, tiles: int) -> Callable[[], object]:
    """A pass over the files for each metric and for the features, without any interval."""
    extractor = inception(folder / "inception.pth")
    subset = _link(folder, tiles)

    def run() -> None:
        pairs = pair_images(subset / "virtual", subset / "real")
        for metric in METRICS.values():
            if metric.partner == "real":
                for batch in read_batches(pairs):
                    metric.measure(batch.virtual, batch.real)
        for batch in read_batches(pairs):
            extractor(batch.virtual)
            extractor(batch.real)

    return run


def _link(folder: Path, tiles: int) -> Path:
    subset = folder / f"first-{tiles}"
    for name in ("real", "virtual"):
        (subset / name).mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / name).iterdir())[:tiles]:
            link = subset / name / path.name
            if not link.exists():
                link.symlink_to(path)
    return subset


def main() -> None:
    """Print time and memory of a tenth of the tiles, of a pass for each metric over that tenth, and of all tiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=1000)
    parser.add_argument("--side-px", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    tiles, threads = arguments.tiles, arguments.threads
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, tiles, arguments.side_px)
        torch.save(FidInception().state_dict(), folder / "inception.pth")
        tenth = _tenth(tiles)
        runs = {
            f"one pass, {tenth} tiles": (together, tenth),
            f"a pass for each, {tenth} tiles": (apart, tenth),
            f"one pass, {tiles} tiles": (together, tiles),
        }
        print(f"{'':32}{'CPU seconds':>12}{'per tile':>10}{'peak MiB':>10}", flush=True)
        costs = []
        for label, (prepare, count) in runs.items():
            found = cost(prepare, folder, count, repeats=1, threads=threads, warm_up=False)
            costs.append(found)
            per_tile = found.cpu_seconds / count
            print(f"{label:32}{found.cpu_seconds:12.1f}{per_tile:10.3f}{found.peak_mib:10.0f}", flush=True)
    few, each, whole = costs
    features_mib = (tiles - tenth) * 2 * 2048 * 4 / 2**20
    print(f"{'ratio, each to one':32}{each.cpu_seconds / few.cpu_seconds:11.2f}x")
    print(f"{'growth from a tenth to all':32}{whole.peak_mib - few.peak_mib:28.0f} MiB more")
    print(f"{'of these, feature matrices':32}{features_mib:28.0f} MiB")


if __name__ == "__main__":
    main()
