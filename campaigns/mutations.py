"""Damage files of every kind in a thousand ways and give them to the commands that read them.

    python campaigns/mutations.py [--count 1000] [--minutes 60] [--seed 0] [--kinds image,run,…] [--only N]

For each damaged file a command must end within 30 s of work, in 2 GB, with a result or with a sentence: no traceback,
no file half-written, no input changed, no code of the file run, no process left. Where it ends well though a state,
spool or listing was damaged, its result must be that of the undamaged one. `--only N` repeats one try and shows what
the command said.
"""

import argparse
import json
import math
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import mutators
import processes
from damaged import KINDS, Case, Seeds, Words, weights_of
from processes import contents, litter, orphans, start


@dataclass
class Tally:
    """What became of the tries."""

    tried: int = 0
    problems: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    work_ms: Counter[str] = field(default_factory=Counter)
    """Of the processor, by kind."""
    longest_s: float = 0.0
    most_mb: float = 0.0

    def add(self, kind: str, ended: processes.Run, problems: int) -> None:
        """Count a try."""
        self.tried, self.problems = self.tried + 1, self.problems + problems
        self.outcomes[f"{kind}: {'refused' if ended.code else 'taken'}"] += 1
        self.work_ms[kind] += round(1000 * ended.cpu_s)
        self.longest_s, self.most_mb = max(self.longest_s, ended.cpu_s), max(self.most_mb, ended.peak_mb)

    def show(self) -> None:
        """Print it."""
        for outcome, count in sorted(self.outcomes.items()):
            print(f"{count:4d} {outcome}")
        print(", ".join(f"{kind} {ms / 1000:.0f} s" for kind, ms in self.work_ms.most_common()))
        print(f"longest {self.longest_s:.0f} s of work, most memory {self.most_mb:.0f} MB")
        print(f"{self.tried} tries, {self.problems} problems")


def main() -> int:
    """Run the campaign; the exit status is the number of problems, 99 at most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--start", type=int, default=0, help="The first try, so that several processes share them.")
    parser.add_argument("--minutes", type=float, default=math.inf, help="No further try afterwards.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="Only these, by commas.")
    parser.add_argument("--only", type=int, help="Repeat one try.")
    options = parser.parse_args()
    processes.warm_up()
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="mutations-") as place:
        root, began = Path(place), time.monotonic()
        seeds = Seeds(root)
        cases = {kind: KINDS[kind](seeds) for kind in (options.kinds.split(",") if options.kinds else KINDS)}
        names = sorted(cases)
        for n in [options.only] if options.only is not None else range(options.start, options.count):
            if time.monotonic() - began > 60 * options.minutes:
                break
            kind = names[n % len(names)]
            draws = random.Random(f"{options.seed} {n}")
            found, ended, words = attempt(draws, draws.choice(cases[kind]), root / "try")
            tally.add(kind, ended, len(found))
            said = ended.told.strip().splitlines()
            for problem in found:
                print(f"PROBLEM {n} {kind}: {problem}; {' '.join(map(str, words))}: {said[-1:]}", flush=True)
            if options.only is not None:
                print(ended.told)
            if n % 50 == 49:
                print(f"{n + 1}: {tally.problems} problems, {time.monotonic() - began:.0f} s", flush=True)
            for path in (root / "try", root / "try.aside"):
                shutil.rmtree(path, ignore_errors=True)
    tally.show()
    return min(tally.problems, 99)


def attempt(draws: random.Random, case: Case, folder: Path) -> tuple[list[str], processes.Run, Words]:
    """Damage the file of a case and run a command on it; what is wrong afterwards."""
    shutil.copytree(case.seed, folder, symlinks=True)
    target = folder / case.name
    data = target.read_bytes()
    way = draws.choice(case.ways)
    target.write_bytes(way(draws, data))
    before, words = contents(folder), draws.choice(case.commands)
    ended = start(words, folder).wait()
    after = contents(folder)
    problems = [ended.why] if ended.why else []
    if ended.code not in (0, 1, 2) and not ended.why:
        problems.append(f"status {ended.code}")
    if "Traceback" in ended.told or re.search(r"unexpected \w+(Error|Exception|Exit|Interrupt)\b", ended.told):
        problems.append("a traceback")
    if mutators.MARK.exists():
        mutators.MARK.unlink()
        problems.append("code of the file ran")
    problems += orphans(ended)
    if not ended.why:
        problems += [
            f"{path.name} is left in the temporary folder" for path in ended.scratch.rglob("*") if path.is_file()
        ]
    given = {name for name in before if not name.startswith(("run/", "cut/", "r.ome", "o/", ".lock"))}
    problems += [f"the input {name} was changed" for name in given if after.get(name) != before[name]]
    new = [folder / name for name in after if before.get(name) != after[name]]
    problems += [f"half-written: {path.relative_to(folder)} ({why})" for path in new if (why := unreadable(path))]
    problems += [words for words in litter(folder) if ".spool" not in words]
    if ended.code == 0 and case.results:
        after["run/model.safetensors"] = weights_of(folder / "run")
        wrong = [name for name in case.results if after.get(name) != case.expected[name]]
        problems += [f"{name} differs from the undamaged one" for name in wrong]
    return problems, ended, words


def unreadable(path: Path) -> str:
    """Why a file that was written cannot be read; empty where it can."""
    import numpy as np
    import openslide
    from PIL import Image
    from safetensors import safe_open

    name = path.name.lower()
    if ".spool" in str(path):
        return ""
    try:
        if name.endswith((".ome.tif", ".ome.tiff")):
            with openslide.OpenSlide(path) as slide:
                np.asarray(slide.read_region((0, 0), 0, slide.dimensions))
        elif name.endswith((".png", ".tif", ".jpg")):
            with Image.open(path) as image:
                image.load()
        elif name.endswith((".json", ".geojson")):
            json.loads(path.read_text(encoding="utf-8"))
        elif name.endswith(".safetensors"):
            with safe_open(path, framework="np") as file:
                file.keys()
        elif name.endswith(".html") and not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
            return "cut short"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
