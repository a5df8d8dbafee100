"""Stop every long command at random moments until it has finished, and compare what it leaves with an undisturbed run.

    python campaigns/kills.py [--of train,stain,…] [--kills 50] [--seed 0] [--by signals|disk|full|twice|ranks|words]
                              [--signals SIGKILL,…] [--helpers spawn|fork]

By signals, SIGKILL, SIGTERM, SIGHUP or SIGINT reach the command, or all of its processes, at a moment drawn from the
length of the undisturbed run. No process may go on, no file lie in the temporary folder, a request to stop must be
answered in words, and the same command, given again until it ends, must leave the same weights, pixels, tables and side
files as the run that nobody disturbed. By disk, no file may grow beyond a drawn size: the command must say so and leave
nothing half-written, and with room again it must come to the same end. By full, it writes to a file system of its own
(a tmpfs, which root may mount) of a drawn size. By words, a request to stop is answered, by commands that are too long
to be compared or never end. By twice, the command runs twice at once: one
ends well, and the other does too or says why it does not. By ranks, a training of two ranks under torchrun is stopped.
"""

import argparse
import multiprocessing
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import processes
from commands import MODEL, Work, works
from comparing import differences, meaning
from processes import Run, litter, orphans, run, start

from restain.workers import processes as helpers

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def main() -> int:
    """Run the campaign; the exit status is the number of problems, 99 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--of", default="train,stain,bench,cut")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--by", choices=tuple(CAMPAIGNS), default="signals")
    parser.add_argument("--signals", default=",".join(number.name for number in SIGNALS))
    parser.add_argument(
        "--helpers", choices=("spawn", "fork"), default="spawn", help="How the commands' processes begin; fork is fast."
    )
    options = parser.parse_args()
    helpers.CONTEXT = multiprocessing.get_context(options.helpers)
    signals = [signal.Signals[name] for name in options.signals.split(",")]
    processes.warm_up()
    processes.MOST_CPU_S = processes.MOST_IDLE_S = 1800.0  # hanging is what mutations looks for
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        root = Path(place)
        base = root / "base"
        base.mkdir()
        run(("phantom", "pairs", "--pairs", 8, "--size", 128), base)
        run(("phantom", "--slide", "he.ome.tif", "--neighbour", "ihc.ome.tif", "--size", 1400, "--coverage", 0.6), base)
        for seed, name in enumerate(("small.ome.tif", "other.ome.tif")):
            run(("phantom", "--slide", name, "--size", 400, "--coverage", 0.6, "--seed", seed), base)
        run(("train", "cut-tiny", "--data", "pairs", "--out", "trained", "--steps", 2), base)
        shutil.copy(base / "trained" / MODEL, base / MODEL)
        for name in options.of.split(","):
            work = works()[name]
            campaign = partial(by_signals, signals=signals) if options.by == "signals" else CAMPAIGNS[options.by]
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
        return self.fill(work)

    def fill(self, work: Work) -> Path:
        """The same folder, with the inputs."""
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
    problems = [f"a traceback: {told[told.index('Traceback') :][-700:]}"] if "Traceback" in told else []
    problems += [ended.why] if ended.why else []
    problems += orphans(ended)
    if ended.code not in (0, 128 + number):
        problems.append(f"status {ended.code}: {told[-300:]}")
    if number != signal.SIGKILL and ended.code != 0 and told.strip() and "Stopped" not in told:
        problems.append(f"no word of being stopped: {told[-300:]}")  # silent, it had not begun
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


def by_full(draws: random.Random, work: Work, place: Place, kills: int) -> tuple[list[str], str]:
    """Give it a file system of a drawn size, so often."""
    expected, _ = whole(work, place)
    inside = sum(path.stat().st_size for name in work.inputs for path in _files(place.base / name))
    made = sum(path.stat().st_size for path in _files(place.folder)) - inside
    problems: list[str] = []
    refused, sizes = 0, []
    for n in range(kills):
        sizes.append(most := int(inside * 1.1 + 100_000 + made * draws.uniform(0.02, 1.1)))
        with mounted(work, place, most) as folder:
            ended = start(work.words, folder).wait()
            refused += ended.code == 1
            if "Traceback" in ended.told or ended.why or ended.code not in (0, 1):
                problems.append(f"{most} bytes, try {n}: status {ended.code} {ended.why}: {ended.told.strip()[-300:]}")
            problems += orphans(ended) + [words for words in litter(folder) if ".spool" not in words]
            subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)
            ended = start(work.words, folder).wait()
            problems += [] if ended.code == 0 else [f"with room again, try {n}: {ended.told[-300:]}"]
            problems += differences(expected, meaning(folder)) + litter(folder)
    return problems, f"{kills} full file systems of {min(sizes)} to {max(sizes)} bytes, {refused} refused"


@contextmanager
def mounted(work: Work, place: Place, most_bytes: int) -> Iterator[Path]:
    """The folder with the inputs alone, on a file system of so many bytes."""
    place.anew(Work(work.words, ()))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={most_bytes}", "tmpfs", str(place.folder)], check=True)
    try:
        place.fill(work)
        yield place.folder
    finally:
        subprocess.run(["umount", str(place.folder)], check=True)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [below for below in path.rglob("*") if below.is_file()]


def by_words(draws: random.Random, work: Work, place: Place, kills: int) -> tuple[list[str], str]:
    """Ask it to stop, so often, some seconds after it has begun."""
    problems: list[str] = []
    for n in range(kills):
        number = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[n % 3]
        running = start(work.words, place.anew(work))
        moment = time.monotonic() + draws.uniform(0.5, 12)
        while time.monotonic() < moment and not running.poll():
            time.sleep(0.01)
        running.stop(number)
        limit = time.monotonic() + 60
        while not running.poll() and time.monotonic() < limit:
            time.sleep(0.01)
        if not running.poll():
            running.end("does not stop")
        problems += (f"{number.name}, try {n}: {problem}" for problem in _stopped(running.wait(), number))
        problems += [words for words in litter(place.folder) if ".spool" not in words]
    return problems, f"{kills} requests to stop"


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


CAMPAIGNS = {
    "signals": by_signals,
    "disk": by_disk,
    "full": by_full,
    "twice": twice,
    "ranks": ranks,
    "words": by_words,
}


if __name__ == "__main__":
    sys.exit(main())
