"""All ratios of speed and memory that matter on a CPU, by one command, in a quarter of an hour on an idle machine.

    git worktree add ../before REVISION
    python benchmarks/ratios.py [--before ../before] [--out docs/results/speed.md]

Each ratio is of two things that take turns in this run: a training step beside that of an older checkout
(`benchmarks/step.py`), threads beside busy processes by how they wait (`benchmarks/load.py`), a small and a larger
slide beside a plain loop (`benchmarks/slide.py`). `--quick` takes small sizes, to try the script.
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import load
import numpy as np
import step
import torch
from slide import plain_loop

from restain.checkpoint import save_checkpoint
from restain.data.phantom import PhantomSettings, write_pairs
from restain.image import RGB, load_image
from restain.networks.generator import Generator, GeneratorConfig
from restain.slides.tiff import Description
from restain.slides.writer import write_slide
from restain.staining.model import load_model
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide
from restain.workers.cores import SPINS

ROOT = Path(__file__).parents[1]
MPP = 0.5


def steps(before: Path, crop: int, width: int, count: int) -> Iterator[str]:
    """A VSMT step of both checkouts, in float32 and bfloat16."""
    yield f"VSMT step, crop {crop}, width {width}, batch 1, one thread; processor time, {count} steps each in turns:\n"
    for bfloat16 in (False, True):
        settings: list[object] = [crop, width, 1, bfloat16, False]
        yield f"* {'bfloat16' if bfloat16 else 'float32'}: {step.compare(before, ROOT, settings, count, settings)}"


def waiting(seconds: float, rounds: int) -> Iterator[str]:
    """How much slower beside busy processes, as restain's command line waits and as OpenMP does by itself."""
    for kind in ("train", "stain"):
        default, ours = load.measure(["default", str(SPINS)], kind, seconds=seconds, rounds=rounds, busy=2)
        slower = [np.median([a / b for a, b in zip(one.alone, one.beside, strict=True)]) for one in (default, ours)]
        alone = np.median([a / b for a, b in zip(ours.alone, default.alone, strict=True)])
        yield (
            f"* {kind}: beside two busy processes {slower[1]:.1f} times slower than alone, with OpenMP's default "
            f"{slower[0]:.1f} times; alone {alone:.2f} times the default's rate"
        )


def slides(megapixels: list[float], width: int, folder: Path) -> Iterator[str]:
    """A slide in bfloat16 against a plain loop in float32 on the same pixels."""
    write_pairs(folder / "drawn", 2, validation=1, seed=0, settings=PhantomSettings(size_px=512, mpp=MPP))
    tissue = load_image(next((folder / "drawn/TrainValAB/trainA").iterdir()))
    both = np.concatenate([tissue, tissue[:, ::-1]], axis=1)
    whole = np.concatenate([both, both[::-1]])
    torch.manual_seed(0)
    checkpoint = folder / "model.safetensors"
    save_checkpoint(checkpoint, Generator(GeneratorConfig(width=width)), method="cut", mpp=MPP)
    for size in megapixels:
        side = round((size * 1e6) ** 0.5 / 64) * 64
        rows = np.arange(side) % len(whole)

        def read(x: int, y: int, wide: int, high: int, rows: np.ndarray = rows) -> RGB:
            return np.ascontiguousarray(whole[rows[y : y + high]][:, rows[x : x + wide]])

        source = folder / f"{side}.ome.tif"
        write_slide(source, (side, side), read, Description("drawn", MPP))
        start = time.perf_counter()
        plain = plain_loop(source, checkpoint, folder / "plain.tif", None, 1024, "cpu")
        between = time.perf_counter()
        settings = SlideSettings(bfloat16=True)
        report = stain_slide(load_model(checkpoint), source, folder / f"{side}-virtual.ome.tif", settings)
        ours = time.perf_counter() - between
        share = report.seconds["statistics"] / ours
        yield (
            f"* {plain:.1f} megapixels of tissue at width {width}: plain loop in float32 {between - start:.0f} s, "
            f"restain in bfloat16 {ours:.0f} s, {(between - start) / ours:.1f} times as fast; {share:.0%} of its time "
            "is for the statistics"
        )


def main() -> None:
    """Print all, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="an older checkout; without it no steps are compared")
    parser.add_argument("--out", type=Path, help="page to write")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    quick, begun = given.quick, time.perf_counter()
    name = platform.processor() or platform.machine()
    lines = ["# Speed on a CPU", ""]
    lines += [f"`python benchmarks/ratios.py`, {os.cpu_count()} cores ({name}), PyTorch {torch.__version__}, "]
    lines += [f"load average {os.getloadavg()[0]:.1f} when it began.", ""]
    with tempfile.TemporaryDirectory() as folder:
        parts = {
            "A training step": steps(given.before, *((128, 8, 1) if quick else (256, 64, 2))) if given.before else [],
            "Beside busy processes": waiting(*((1.0, 1) if quick else (6.0, 3))),
            "Small slides": slides([1.0] if quick else [6.0, 30.0], 4 if quick else 32, Path(folder)),
        }
        for title, part in parts.items():
            lines += [f"## {title}", ""]
            print(lines[-2], flush=True)
            for line in part:
                print(line, flush=True)
                lines.append(line)
            lines.append("")
    print(f"{time.perf_counter() - begun:.0f} s in all")
    if given.out:
        given.out.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
