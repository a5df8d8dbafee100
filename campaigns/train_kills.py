"""Kill a training at random moments until it is finished, and compare what it leaves with an undisturbed run.

    python campaigns/train_kills.py [--kills 50] [--seed 0] [--method cut-tiny] [--steps 400]

Each round starts `restain train`, waits for a random time, and sends SIGKILL, or SIGTERM or SIGINT to all of its
processes. Afterwards no process of it may run, and a new one must be able to start. At the end the weights, both logs
and both checkpoints must be those of a run that nobody disturbed, and neither the run's folder nor the temporary one
may hold anything else.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from restain.checkpoint import read_info
from restain.training.state import read_saved

SETTINGS = (
    "training.save_every_steps=7",
    "training.log_every_steps=3",
    "training.sample_every_steps=0",
    "training.evaluate_every_steps=5",
    "training.best_by=dab_error",
    "data.loaders=2",
)


def main() -> int:
    """Run the campaign; the exit status is the number of differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="cut-tiny")
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    draws = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as place:
        root, scratch = Path(place), Path(place) / "tmp"
        scratch.mkdir()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
        restain = [sys.executable, "-m", "restain"]
        subprocess.run(
            [*restain, "phantom", root / "pairs", "--pairs", "8", "--size", "128"], check=True, env=environment
        )

        def command(out: str) -> list[str | Path]:
            settings = [word for setting in SETTINGS for word in ("--set", setting)]
            given = ["--data", root / "pairs", "--out", root / out, "--steps", str(options.steps), *settings]
            return [*restain, "train", options.method, *given]

        subprocess.run(command("whole"), check=True, env=environment, stderr=subprocess.DEVNULL)
        problems = []
        for kill in range(options.kills):
            number = draws.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            saves = draws.choice([0, 1, 1, 1, 2, 3])
            delay = draws.uniform(0, 1 if saves else 15)  # without a state it is still beginning
            problems += disturb(command("killed"), environment, number, root / "killed" / "state.pt", saves, delay)
            done = read_saved(root / "killed" / "state.pt").done
            print(f"{kill + 1:3d}  {number.name:8s} {saves} states and {delay:.2f} s on: step {done}", flush=True)
            if done == options.steps:
                break
        subprocess.run(command("killed"), check=True, env=environment, stderr=subprocess.DEVNULL)
        problems += differences(root / "whole", root / "killed")
        # PyTorch makes the folder of its compiler there, whether it compiles or not
        problems += [f"left in the temporary folder: {path}" for path in scratch.rglob("*") if path.is_file()]
    for problem in problems:
        print("PROBLEM", problem)
    print(f"{len(problems)} problems")
    return len(problems)


def disturb(
    command: list[str | Path],
    environment: dict[str, str],
    number: signal.Signals,
    state: Path,
    saves: int,
    delay: float,
) -> list[str]:
    """Start, wait for so many new states and so long, in seconds, and send the signal; what is wrong afterwards."""
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    seen = modified(state)
    while saves and process.poll() is None:
        time.sleep(0.005)
        if (now := modified(state)) != seen:
            seen, saves = now, saves - 1
    time.sleep(delay)
    if process.poll() is not None:
        process.communicate()
        return [] if process.returncode == 0 else [f"ended by itself with {process.returncode}"]
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    words = process.communicate(timeout=120)[1]
    problems = ["a traceback"] if "Traceback" in words else []
    time.sleep(1)
    return problems + [f"process {one} still runs" for one in members(process.pid)]


def modified(path: Path) -> int:
    """When a file was written, 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def members(session: int) -> list[int]:
    """The processes of a session that run."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def differences(whole: Path, killed: Path) -> list[str]:
    """What differs in the two runs' folders."""
    names = [
        {str(path.relative_to(run)) for path in run.rglob("*") if "tensorboard" not in path.parts}
        for run in (whole, killed)
    ]
    found = [f"only in one of the runs: {name}" for name in names[0] ^ names[1]]
    texts = ("losses.jsonl", "held_out.jsonl", "data.txt", "recipe.toml")
    found += [f"{name} differs" for name in texts if (whole / name).read_bytes() != (killed / name).read_bytes()]
    for name in ("model.safetensors", "best.safetensors"):
        one, other = (read_info(run / name) for run in (whole, killed))
        if (one.sha256, one.extra) != (other.sha256, other.extra):
            found.append(f"{name} differs")
    return found


if __name__ == "__main__":
    sys.exit(main())
