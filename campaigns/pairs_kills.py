"""Kill `restain pairs align` and `restain pairs cut`, with a pool of processes, at random moments until they finish.

    python campaigns/pairs_kills.py [--of align,cut] [--kills 50] [--seed 0] [--processes 2]

As `kills.py` does it, with SIGKILL alone and for a data set of several pairs of slides: no process may go on, nothing
may be told in a traceback, and every file, transforms, journals and pictures included, must have the bytes that an
undisturbed run in a single process leaves.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import processes
from kills import Place, Work, by_signals, differences, whole
from processes import run


def works(count: int) -> dict[str, Work]:
    """The commands, in so many processes."""
    tiles = ("--mpp", 2, "--size", 64, "--no-any-scale", "--least-detail", 0.01)
    return {
        "align": Work(("pairs", "align", "pairs", "--out", "aligned", "--processes", count), ("pairs",)),
        "cut": Work(
            ("pairs", "cut", "slides.csv", "--out", "cut", *tiles, "--processes", count),
            ("slides.csv", "he1.ome.tif", "ihc1.ome.tif", "he2.ome.tif", "ihc2.ome.tif"),
        ),
    }


def main() -> int:
    """Run the campaign; the exit status is the number of problems, 99 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", default="align,cut")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    processes.warm_up()
    processes.MOST_CPU_S = processes.MOST_IDLE_S = 1800.0  # hanging is what mutations looks for
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        root = Path(place)
        base = root / "base"
        base.mkdir()
        run(("phantom", "pairs", "--pairs", 6, "--size", 256), base)
        rows = ["he,ihc,case"]
        for seed in (1, 2):
            he, ihc = f"he{seed}.ome.tif", f"ihc{seed}.ome.tif"
            lie = ("--turn", 50, "--mpp", 2, "--size", 600, "--coverage", 0.6, "--seed", seed)
            run(("phantom", "--slide", he, "--neighbour", ihc, *lie), base)
            rows.append(f"{he},{ihc},case{seed}")
        (base / "slides.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        for name in options.of.split(","):
            work = works(options.processes)[name]
            here = Place(base, root / name)
            began = time.monotonic()
            alone, _ = whole(works(1)[name], here)
            together, _ = whole(work, here)
            found = [f"in {options.processes} processes: {words}" for words in differences(alone, together)]
            draws = random.Random(f"{options.seed} {name}")
            after, words = by_signals(draws, work, here, options.kills, (signal.SIGKILL,))
            found += after
            problems += (f"{name}: {problem}" for problem in found)
            print(f"{name}: {words}, {len(found)} problems, {time.monotonic() - began:.0f} s", flush=True)
            for problem in found:
                print("PROBLEM", problem, flush=True)
    print(f"{len(problems)} problems")
    return min(len(problems), 99)


if __name__ == "__main__":
    sys.exit(main())
