"""All ratios of speed and memory that matter on a CPU, by one command, in a quarter of an hour on an idle machine.

    git worktree add ../before REVISION
    python benchmarks/ratios.py [--before ../before] [--out ratios.md] [--minutes 8]

Each ratio is of two things that take turns in this run: a training step beside that of an older checkout
(`benchmarks/step.py`), threads beside busy processes by how they wait (`benchmarks/load.py`), a small and a larger
slide beside a plain loop (`benchmarks/slide.py`). Finished pieces are kept in a file beside the page: a run that was
stopped, or reached `--minutes`, goes on where it was. `--quick` takes small sizes, to try the script.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
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
PLAIN_MPX = 6.0


def steps(before: Path, crop: int, width: int, count: int, *, bfloat16: bool) -> str:
    """A VSMT step of an older checkout and of this one."""
    settings: list[object] = [crop, width, 1, bfloat16, False]
    old, new = step.Side(before, settings), step.Side(ROOT, settings)
    step.in_turns([old, new], count)
    what = f"{'bfloat16' if bfloat16 else 'float32'}, crop {crop}, width {width}, batch 1, one thread"
    return f"* {what}, {count} steps each: {step.compare(old, new)}"


def large_step(crop: int, width: int, *, bfloat16: bool) -> str:
    """Memory of a VSMT step of this checkout alone."""
    side = step.Side(ROOT, [crop, width, 1, bfloat16, False])
    step.in_turns([side], 1)
    words = "bfloat16" if bfloat16 else "float32"
    return f"* {words}, crop {crop}, width {width}, this checkout alone: {side.peak_mib:.0f} MiB, {side.cpu[-1]:.0f} s"


def waiting(kind: str, seconds: float, rounds: int) -> str:
    """How much slower beside busy processes, as restain's command line waits and as OpenMP does by itself."""
    default, ours = load.measure(["default", str(SPINS)], kind, seconds=seconds, rounds=rounds, busy=2)
    slower = [np.median([a / b for a, b in zip(one.alone, one.beside, strict=True)]) for one in (default, ours)]
    alone = np.median([a / b for a, b in zip(ours.alone, default.alone, strict=True)])
    return (
        f"* {kind}: beside two busy processes {slower[1]:.1f} times slower than alone, with OpenMP's default "
        f"{slower[0]:.1f} times; alone {alone:.2f} times the default's rate"
    )


def slides(megapixels: float, width: int) -> str:
    """A slide in bfloat16 against a plain loop in float32, which stains at most `PLAIN_MPX` of the same pixels."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pairs(folder / "drawn", 2, validation=1, seed=0, settings=PhantomSettings(size_px=512, mpp=MPP))
        tissue = load_image(next((folder / "drawn/TrainValAB/trainA").iterdir()))
        both = np.concatenate([tissue, tissue[:, ::-1]], axis=1)
        whole = np.concatenate([both, both[::-1]])
        torch.manual_seed(0)
        checkpoint = folder / "model.safetensors"
        save_checkpoint(checkpoint, Generator(GeneratorConfig(width=width)), method="cut", mpp=MPP)
        side = round((megapixels * 1e6) ** 0.5 / 64) * 64
        rows = np.arange(side) % len(whole)

        def read(x: int, y: int, wide: int, high: int) -> RGB:
            return np.ascontiguousarray(whole[rows[y : y + high]][:, rows[x : x + wide]])

        source = folder / f"{side}.ome.tif"
        write_slide(source, (side, side), read, Description("drawn", MPP))
        corner = min(side, round((PLAIN_MPX * 1e6) ** 0.5 / 64) * 64)
        start = time.perf_counter()
        plain = plain_loop(source, checkpoint, folder / "plain.tif", (0, 0, corner, corner), 1024, "cpu")
        rate = plain / (time.perf_counter() - start)
        between = time.perf_counter()
        settings = SlideSettings(bfloat16=True)
        report = stain_slide(load_model(checkpoint), source, folder / f"{side}-virtual.ome.tif", settings)
        ours = time.perf_counter() - between
    share = report.seconds["statistics"] / ours
    return (
        f"* {report.megapixels:.1f} megapixels of tissue at width {width}: plain loop in float32 {rate:.3f} megapixels "
        f"per second, restain in bfloat16 {report.megapixels / ours:.3f}, {report.megapixels / ours / rate:.1f} times "
        f"as fast; {share:.0%} of its {ours:.0f} s is for the statistics"
    )


def pieces(before: Path | None, *, quick: bool) -> dict[str, Callable[[], str]]:
    """What is measured, by section and name."""
    crop, width, count = (128, 8, 1) if quick else (256, 64, 2)
    found: dict[str, Callable[[], str]] = {}
    for kind in ("train", "stain"):
        found[f"Beside busy processes/{kind}"] = partial(waiting, kind, *((1.0, 1) if quick else (4.0, 2)))
    for size in [1.0] if quick else [6.0, 30.0]:
        found[f"Small slides/{size:g}"] = partial(slides, size, 4 if quick else 32)
    for bfloat16 in (False, True):
        words = "bfloat16" if bfloat16 else "float32"
        taken = 2 * count if bfloat16 else count  # which are shorter, and vary more
        if before:
            found[f"A training step/{words}"] = partial(steps, before, crop, width, taken, bfloat16=bfloat16)
        found[f"A training step/large {words}"] = partial(large_step, 2 * crop, width, bfloat16=bfloat16)
    return found


def main() -> None:
    """Print all, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="an older checkout; without it no steps are compared")
    parser.add_argument("--out", type=Path, help="page to write")
    parser.add_argument("--minutes", type=float, help="begin no piece after so long; the next run goes on")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    begun, out = time.perf_counter(), given.out or Path("ratios.md")
    kept = out.with_suffix(".quick.json" if given.quick else ".json")
    done: dict[str, str] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    todo = pieces(given.before, quick=given.quick)
    for name, piece in todo.items():
        if name in done:
            continue
        if given.minutes and time.perf_counter() - begun > 60 * given.minutes:
            print(f"{len(todo.keys() - done.keys())} pieces are left; run the same command to go on")
            return
        began, busy = time.perf_counter(), os.getloadavg()[0]
        done[name] = f"{piece()} (load average {busy:.1f} when it began)"
        print(f"{done[name]}, {time.perf_counter() - began:.0f} s", flush=True)
        kept.write_text(json.dumps(done, indent=2), encoding="utf-8")
    print(f"{time.perf_counter() - begun:.0f} s in this run")
    if given.out:
        given.out.write_text(page({name: done[name] for name in todo}), encoding="utf-8")
        kept.unlink()


def page(done: Mapping[str, str]) -> str:
    """All pieces under their headings."""
    processor = platform.processor() or platform.machine()
    lines = [
        "# Speed on a CPU",
        "",
        f"{os.cpu_count()} cores ({processor}), PyTorch {torch.__version__}. Every ratio is of",
    ]
    lines += ["two things that took turns in one run of:", "", "```bash", "git worktree add ../before REVISION"]
    lines += ["python benchmarks/ratios.py --before ../before --out ratios.md", "```"]
    for title in dict.fromkeys(name.partition("/")[0] for name in done):
        lines += ["", f"## {title}", ""]
        lines += [line for name, line in done.items() if name.partition("/")[0] == title]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
