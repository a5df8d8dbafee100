"""Kill `restain pairs align` and `restain pairs cut` again and again, and compare with a run that nobody disturbed.

    python campaigns/pairs_kills.py [--kills 3] [--processes 2]

Each round starts the command, waits until its journal has grown, and sends SIGKILL. Afterwards no process of it may
run. At the end every file must have the bytes of the undisturbed run, which used a single process.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from train_kills import members

PATIENCE_S = 30
"""How long a process that has just begun may take to notice that the one that began it is gone."""
RESTAIN = [sys.executable, "-m", "restain"]


def main() -> int:
    """Run the campaign; the exit status is the number of differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    given = parser.parse_args()
    problems = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        call([*RESTAIN, "phantom", str(root / "pairs"), "--pairs", "6", "--size", "256"])
        rows = ["he,ihc,case"]
        for seed in ("1", "2"):
            he, ihc = root / f"he{seed}.ome.tif", root / f"ihc{seed}.ome.tif"
            lie = ["--turn", "50", "--mpp", "2", "--size", "600", "--coverage", "0.6", "--seed", seed]
            call([*RESTAIN, "phantom", "--slide", str(he), "--neighbour", str(ihc), *lie])
            rows.append(f"{he},{ihc},case{seed}")
        (root / "slides.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")

        def align(out: Path, processes: int) -> list[str]:
            return ["pairs", "align", str(root / "pairs"), "--out", str(out), "--processes", str(processes)]

        def cut(out: Path, processes: int) -> list[str]:
            tiles = ["--mpp", "2", "--size", "64", "--no-any-scale", "--least-detail", "0.01"]
            return ["pairs", "cut", str(root / "slides.csv"), "--out", str(out), *tiles, "--processes", str(processes)]

        for name, command in (("align", align), ("cut", cut)):
            problems += campaign(name, command, root, given.kills, given.processes)
    for problem in problems:
        print("PROBLEM", problem)
    print(f"{len(problems)} problems")
    return len(problems)


def campaign(name: str, command: Callable[[Path, int], list[str]], root: Path, kills: int, processes: int) -> list[str]:
    """Disturb one command; what is wrong afterwards."""
    whole, killed = root / f"{name}-whole", root / f"{name}-killed"
    call([*RESTAIN, *command(whole, 1)])
    problems = []
    for kill in range(kills):
        process = subprocess.Popen([*RESTAIN, *command(killed, processes)], start_new_session=True, env=environment())
        before = lines(killed)
        while process.poll() is None and lines(killed) < before + 2:
            time.sleep(0.02)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        until = time.monotonic() + PATIENCE_S
        while members(process.pid) and time.monotonic() < until:
            time.sleep(0.1)
        print(f"{name}, kill {kill + 1}: {lines(killed)} lines in its journals", flush=True)
        problems += [f"{name}: process {one} still runs" for one in members(process.pid)]
    call([*RESTAIN, *command(killed, processes)])
    trees = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (whole, killed)
    ]
    return problems + [
        f"{name}: {file} differs" for file in trees[0] | trees[1] if trees[0].get(file) != trees[1].get(file)
    ]


def lines(folder: Path) -> int:
    """How many lines the journals of a folder have."""
    journals = [*folder.glob("pairs.jsonl"), *folder.glob("slides/*/tiles.jsonl")]
    return sum(path.read_bytes().count(b"\n") for path in journals)


def environment() -> dict[str, str]:
    """One thread for each process."""
    return os.environ | {"OMP_NUM_THREADS": "1"}


def call(words: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run(words, check=True, env=environment(), stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
