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

        begun = time.monotonic()
        subprocess.run(command("whole"), check=True, env=environment, stderr=subprocess.DEVNULL)
        usual = time.monotonic() - begun
        problems = []
        for kill in range(options.kills):
            number = draws.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            delay = draws.uniform(0.2, 0.5) * usual
            problems += disturb(command("killed"), environment, number, delay)
            done = read_saved(root / "killed" / "state.pt").done
            print(f"{kill + 1:3d}  {number.name:8s} after {delay:5.1f} s: step {done}", flush=True)
            if done == options.steps:
                break
        subprocess.run(command("killed"), check=True, env=environment, stderr=subprocess.DEVNULL)
        problems += differences(root / "whole", root / "killed")
        problems += [f"left in the temporary folder: {path}" for path in scratch.rglob("*")]
    for problem in problems:
        print("PROBLEM", problem)
    print(f"{len(problems)} problems")
    return len(problems)


def disturb(command: list[str | Path], environment: dict[str, str], number: signal.Signals, delay: float) -> list[str]:
    """Start, wait, send the signal; what is wrong afterwards."""
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        process.wait(delay)
        return [] if process.returncode == 0 else [f"ended by itself with {process.returncode}"]
    except subprocess.TimeoutExpired:
        pass
    if number == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, number)
    words = process.communicate(timeout=120)[1]
    problems = ["a traceback"] if "Traceback" in words else []
    time.sleep(1)
    return problems + [f"process {one} still runs" for one in members(process.pid)]


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
