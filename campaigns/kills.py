"""Stop every long command at random moments until it has finished, and compare what it leaves with an undisturbed run.

    python campaigns/kills.py [--of train,stain,…] [--kills 50] [--seed 0] [--by signals|disk|twice|ranks]

By signals, SIGKILL, SIGTERM, SIGHUP or SIGINT reach the command, or all of its processes, at a moment drawn from the
length of the undisturbed run. No process may go on, no file lie in the temporary folder, a request to stop must be
answered in words, and the same command, given again until it ends, must leave the same weights, pixels, tables and side
files as the run that nobody disturbed. By disk, no file may grow beyond a drawn size: the command must say so and leave
nothing half-written, and with room again it must come to the same end. By twice, the command runs twice at once: one
ends well, and the other does too or says why it does not. By ranks, a training of two ranks under torchrun is stopped.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import processes
from processes import Run, contents, litter, orphans, run, start

MODEL = "model.safetensors"
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


@dataclass(frozen=True)
class Work:
    """A command that takes long, in a folder in which its inputs lie."""

    words: Sequence[object]
    inputs: tuple[str, ...]
    resumes: bool = True
    """Whether it goes on where it was stopped; else it begins again."""


def works() -> dict[str, Work]:
    """The long commands, at a size that takes seconds."""
    settings = ("save_every_steps=7", "log_every_steps=3", "evaluate_every_steps=5", "best_by=dab_error")
    training = [word for setting in settings for word in ("--set", f"training.{setting}")]
    tiny = [word for key in ("model.width=2", "model.positions=8", "data.crop_px=32") for word in ("--set", key)]
    slide = ("--model", MODEL, "--model-mpp", 0.5, "--tile-px", 64, "--device", "cpu")
    return {
        "train": Work(
            ("train", "cut-tiny", "--data", "pairs", "--out", "run", "--steps", 40, *training),
            ("pairs",),
        ),
        "loaders": Work(
            ("train", "cut-tiny", "--data", "pairs", "--out", "run", "--steps", 40, *training, "--set",
             "data.loaders=2"),
            ("pairs",),
        ),
        "stain": Work(
            ("stain-slides", "small.ome.tif", *slide, "--out", "r.ome.tif"), (MODEL, "small.ome.tif")
        ),
        "archive": Work(
            ("stain-slides", "small.ome.tif", "ihc.ome.tif", *slide, "--out", "o"),
            (MODEL, "small.ome.tif", "ihc.ome.tif"),
        ),
        "bench": Work(
            ("bench", "cut-tiny", "fastcut-tiny", "--data", "pairs", "--out", "bench", "--budget", "steps=4", "--seeds",
             1, "--tiles", 2, "--device", "cpu", *tiny),
            ("pairs",),
        ),
        "cut": Work(
            ("pairs", "cut", "he.ome.tif", "ihc.ome.tif", "--out", "cut", "--size", 128, "--validation", 0),
            ("he.ome.tif", "ihc.ome.tif"),
        ),
        "align": Work(("pairs", "align", "pairs", "--out", "aligned"), ("pairs",)),
        "phantom": Work(("phantom", "--slide", "p.ome.tif", "--size", 1500), ()),
        "statistics": Work(
            ("statistics", "he.ome.tif", "ihc.ome.tif", *slide[:4], "--device", "cpu", "--out", "s.safetensors"),
            (MODEL, "he.ome.tif", "ihc.ome.tif"), resumes=False,
        ),
        "evaluate": Work(
            ("evaluate", "--virtual", "pairs/TrainValAB/trainA", "--real", "pairs/TrainValAB/trainB", "--out", "e",
             "--html", "e.html", "--device", "cpu"),
            ("pairs",), resumes=False,
        ),
        "quantify": Work(
            ("quantify", "pairs/TrainValAB/trainB", "--out", "q", "--marker", "membrane", "--mpp", 0.5, "--overwrite"),
            ("pairs",), resumes=False,
        ),
        "images": Work(
            ("stain", "pairs/TrainValAB/trainA", "--model", MODEL, "--out", "v", "--device", "cpu", "--overwrite"),
            (MODEL, "pairs"), resumes=False,
        ),
    }  # fmt: skip


def main() -> int:
    """Run the campaign; the exit status is the number of problems, 99 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", default="train,stain,bench,cut")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by", choices=("signals", "disk", "twice", "ranks"), default="signals")
    options = parser.parse_args()
    processes.warm_up()
    processes.MOST_CPU_S = processes.MOST_IDLE_S = 1800.0  # hanging is what mutations looks for
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        root = Path(place)
        base = root / "base"
        base.mkdir()
        run(("phantom", "pairs", "--pairs", 8, "--size", 128), base)
        run(("phantom", "--slide", "he.ome.tif", "--neighbour", "ihc.ome.tif", "--size", 1400, "--coverage", 0.6), base)
        run(("phantom", "--slide", "small.ome.tif", "--size", 400, "--coverage", 0.6), base)
        run(("train", "cut-tiny", "--data", "pairs", "--out", "trained", "--steps", 2), base)
        shutil.copy(base / "trained" / MODEL, base / MODEL)
        for name in options.of.split(","):
            work = works()[name]
            campaign = {"signals": by_signals, "disk": by_disk, "twice": twice, "ranks": ranks}[options.by]
            draws = random.Random(f"{options.seed} {name}")
            began = time.monotonic()
            found, words = campaign(draws, work, Place(base, root / name), options.kills)
            problems += (f"{name}: {problem}" for problem in found)
            print(f"{name}: {words}, {len(found)} problems, {time.monotonic() - began:.0f} s", flush=True)
            for problem in found:
                print("PROBLEM", problem, flush=True)
    print(f"{len(problems)} problems")
    return min(len(problems), 99)


@dataclass
class Place:
    """Where a command is tried: a folder that can be made anew with its inputs."""

    base: Path
    folder: Path

    def anew(self, work: Work) -> Path:
        """The folder with the inputs alone."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name in work.inputs:
            source = self.base / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, self.folder / name)
        return self.folder


def whole(work: Work, place: Place) -> tuple[dict[str, Any], float]:
    """What an undisturbed run leaves, and how long it takes, in seconds."""
    began = time.monotonic()
    run(work.words, place.anew(work))
    return meaning(place.folder), time.monotonic() - began


def by_signals(
    draws: random.Random, work: Work, place: Place, kills: int, signals: Sequence[signal.Signals] = SIGNALS
) -> tuple[list[str], str]:
    """Kill it so often; what was wrong, and in words what was done."""
    expected, seconds = whole(work, place)
    problems: list[str] = []
    done, ends, folder = 0, 0, place.anew(work)
    counts = dict.fromkeys((number.name for number in signals), 0)
    while done < kills:
        running, number = start(work.words, folder), draws.choice(signals)
        moment = time.monotonic() + draws.uniform(0, seconds if draws.random() < 0.7 else seconds / 4)
        while time.monotonic() < moment and not running.poll():
            time.sleep(0.002)
        if not running.poll():
            done += 1
            counts[number.name] += 1
            running.stop(number, group=number != signal.SIGKILL and draws.random() < 0.5)
            problems += (f"{number.name}, try {done}: {problem}" for problem in _stopped(running.wait(), number))
        if running.code == 0:
            ends += 1
            problems += differences(expected, meaning(folder)) + litter(folder)
            folder = place.anew(work)
        elif not work.resumes:
            problems += [words for words in litter(folder) if number != signal.SIGKILL]
    ended = start(work.words, folder).wait()
    problems += [] if ended.code == 0 else [f"at the end: {ended.told[-300:]}"]
    problems += differences(expected, meaning(folder)) + litter(folder)
    drawn = ", ".join(f"{count} {name}" for name, count in counts.items())
    return problems, f"{done} signals ({drawn}), {ends + 1} ends, {seconds:.1f} s undisturbed"


def _stopped(ended: Run, number: signal.Signals) -> list[str]:
    """What is wrong with a command that was stopped."""
    told = ended.told
    problems = ["a traceback"] if "Traceback" in told else []
    problems += [ended.why] if ended.why else []
    problems += orphans(ended)
    if ended.code not in (0, 128 + number):
        problems.append(f"status {ended.code}: {told[-300:]}")
    if number != signal.SIGKILL:
        if ended.code != 0 and told.strip() and "Stopped" not in told:  # silent, it had not begun
            problems.append(f"no word of being stopped: {told[-300:]}")
        problems += [f"{path} is left in the temporary folder" for path in ended.scratch.rglob("*") if path.is_file()]
    return problems


def by_disk(draws: random.Random, work: Work, place: Place, kills: int) -> tuple[list[str], str]:
    """Give no file more than so many bytes, so often."""
    expected, _ = whole(work, place)
    largest = max(path.stat().st_size for path in place.folder.rglob("*") if path.is_file())
    problems: list[str] = []
    refused, ends, folder = 0, 0, place.anew(work)
    for n in range(kills):
        most = int(largest ** draws.uniform(0.3, 1.02))
        ended = start(work.words, folder, most_file_bytes=most).wait()
        told = ended.told
        if ended.code == 0:
            ends += 1
            problems += differences(expected, meaning(folder))
            folder = place.anew(work)
            continue
        refused += 1
        if "Traceback" in told or ended.why or ended.code != 1:
            problems.append(f"{most} bytes, try {n}: status {ended.code} {ended.why}: {told.strip()[-300:]}")
        problems += orphans(ended)
        problems += [words for words in litter(folder) if ".spool" not in words]
    ended = start(work.words, folder).wait()
    problems += [] if ended.code == 0 else [f"with room again: {ended.told[-300:]}"]
    problems += differences(expected, meaning(folder)) + litter(folder)
    return problems, f"{kills} full disks, {refused} refused, {ends + 1} ends"


def twice(draws: random.Random, work: Work, place: Place, kills: int) -> tuple[list[str], str]:
    """Run it twice at once, so often."""
    expected, seconds = whole(work, place)
    problems: list[str] = []
    both = 0
    for n in range(kills):
        folder = place.anew(work)
        first = start(work.words, folder)
        time.sleep(draws.uniform(0, seconds / 2))
        second = start(work.words, folder.with_name(f"{folder.name}.second"), inside=folder)
        ended = [first.wait(), second.wait()]
        codes = [one.code for one in ended]
        both += codes == [0, 0]
        if 0 not in codes or any("Traceback" in one.told or one.code not in (0, 1) for one in ended):
            problems.append(f"try {n}: status {codes}: {[one.told.strip()[-200:] for one in ended]}")
        problems += differences(expected, meaning(folder)) if 0 in codes else []
    return problems, f"{kills} times two at once, {both} times both ended well"


def ranks(draws: random.Random, work: Work, place: Place, kills: int) -> tuple[list[str], str]:
    """Stop a training of two ranks under torchrun, so often."""
    folder = place.anew(work)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "restain"]
    words = [*map(str, work.words)]

    def begin() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*command, *words], cwd=folder, start_new_session=True, text=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    began = time.monotonic()
    process = begin()
    told = process.communicate(timeout=600)[1]
    if process.returncode:
        return [f"two ranks: {told[-500:]}"], "nothing"
    expected, seconds = meaning(folder), time.monotonic() - began
    problems: list[str] = []
    folder = place.anew(work)
    for n in range(kills):
        process, number = begin(), draws.choice((signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
        time.sleep(draws.uniform(seconds / 3, seconds))
        if process.poll() is None:
            process.send_signal(number)
        try:
            told = process.communicate(timeout=120)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            problems.append(f"{number.name}, try {n}: does not end")
            continue
        ended = Run(process.pid, folder, folder, 0.0)
        problems += (f"{number.name}, try {n}: {problem}" for problem in orphans(ended, 20))
        if process.returncode == 0:
            problems += differences(expected, meaning(folder))
            folder = place.anew(work)
    process = begin()
    told = process.communicate(timeout=600)[1]
    problems += [] if process.returncode == 0 else [f"at the end: {told[-500:]}"]
    problems += differences(expected, meaning(folder))
    return problems, f"{kills} signals to torchrun with two ranks"


def meaning(folder: Path) -> dict[str, Any]:
    """Every file below a folder by what must not differ from run to run: weights, pixels, figures, or else bytes."""
    found: dict[str, Any] = {}
    for name, digest in contents(folder).items():
        path = folder / name
        if name.startswith(("pairs/",)) or "tensorboard" in path.parts or path.name in (".lock", "state.pt"):
            continue
        kind = next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), None)
        found[name] = kind(path) if kind else digest
    return found


def _weights(path: Path) -> object:
    from restain.checkpoint import read_info
    from restain.errors import RestainError

    try:
        info = read_info(path)
    except RestainError:  # statistics
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return info.sha256, json.dumps(info.extra, sort_keys=True)


def _pixels(path: Path) -> object:
    import numpy as np
    import openslide

    with openslide.OpenSlide(path) as slide:
        levels = [slide.read_region((0, 0), n, size) for n, size in enumerate(slide.level_dimensions)]
        return [hashlib.sha256(np.asarray(level).tobytes()).hexdigest() for level in levels]


def _figures(path: Path) -> object:
    """JSON without what depends on the clock and the load."""

    def timeless(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: timeless(value) for key, value in node.items() if not _is_of_time(key)}
        return [timeless(value) for value in node] if isinstance(node, list) else node

    return timeless(json.loads(path.read_text(encoding="utf-8")))


def _is_of_time(key: str) -> bool:
    return any(word in key for word in ("second", "time", "date", "peak", "created", "bytes", "hours", "minutes"))


def _there(path: Path) -> object:
    return path.stat().st_size > 0


_KINDS: dict[str, Callable[[Path], object]] = {
    ".safetensors": _weights,
    ".ome.tif": _pixels,
    ".json": _figures,
    "table.md": _there,  # has times in it; table.json has the figures
    ".html": _there,
}


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What differs in two folders."""
    names = [f"only in one of the runs: {name}" for name in expected.keys() ^ found.keys()]
    return names + [f"{name} differs" for name in expected.keys() & found.keys() if expected[name] != found[name]]


if __name__ == "__main__":
    sys.exit(main())
