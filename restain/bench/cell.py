"""One cell of a bench: a recipe with one seed, trained, stained, measured; in a process of its own.

A process of its own gives each cell its own peak of memory, and lets one that dies take nothing with it.
"""

import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from restain.bench.rows import Budget
from restain.checkpoint import load_generator
from restain.errors import OutputError
from restain.image import atomic_path
from restain.metrics import Evaluation, evaluate, find_judges
from restain.staining.images import stain_files
from restain.training import Recipe, train
from restain.training.config import identity
from restain.training.folder import STATE
from restain.training.state import steps_done

RESULT = "result.json"
_TRAINED = "trained.json"
PROBE = ".probe-"
"""What the folders of such trainings, beside those of the cells, begin with; a kill leaves them."""
_PROBES = (4, 4, 12)
"""Steps of short trainings: the first warms up, the difference of the others tells how long a step takes."""


@dataclass(frozen=True)
class Judging:
    """What every cell is judged on, and by what."""

    he: Path
    real: Path
    """Folders with the same names."""
    extractors: tuple[tuple[str, Path], ...] = ()
    """Networks for FID and KID: (module:attribute, weights)."""


@dataclass(frozen=True)
class Cell:
    """One recipe with one seed."""

    row: str
    seed: int
    recipe: Recipe
    data: Path
    run: Path
    """Folder of the training; auxiliary models lie beside it."""
    out: Path
    """Folder of the stained tiles and of the result."""
    budget: Budget
    judging: Judging
    device: str
    auxiliary: tuple[Path, ...] = ()
    """Notes on what its auxiliary models took."""
    length: Path | None = None
    """Note on how many steps its row gets, where the budget is in minutes."""

    def done(self) -> bool:
        """Whether its result is there.

        Raises:
            OutputError: it is that of another recipe.
        """
        if not (self.out / RESULT).is_file():
            return False
        before, now = read_note(self.out / RESULT)["recipe"], _settings(self.recipe)
        if changed := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
            key = changed[0]
            raise OutputError(
                f"the row {self.row!r} has a result from another recipe ({key} was {before.get(key)}, is "
                f"{now.get(key)}); give the row another name, or remove {self.out} and {self.run}"
            )
        return True


@dataclass(frozen=True)
class Training:
    """What a training took."""

    steps: int
    pairs: int
    """Pairs seen: steps times batch."""
    seconds: float
    """Of the method alone. After an interruption: steps times the seconds per step since; not a number if there was no
    step since."""
    peak_bytes: int
    """Most memory that the process held, on the GPU where there is one."""


def work(cell: Cell, console: Console | None) -> None:
    """Do what is left to do of a cell; to be called in a fresh process."""
    training = _train(cell, console)
    cell.out.mkdir(parents=True, exist_ok=True)
    virtual = cell.out / "virtual"
    generator = load_generator(cell.run / "model.safetensors", _place(cell.device))
    for error in stain_files(generator, [cell.judging.he], virtual, overwrite=True).failures.values():
        raise error
    found = measure_cell(cell.judging, virtual, cell.out, cell.device)
    content = {
        "row": cell.row,
        "seed": cell.seed,
        "recipe": _settings(cell.recipe),
        "training": asdict(training),
        "auxiliary_seconds": sum(float(read_note(note)["seconds"]) for note in cell.auxiliary if note.is_file()),
        "figures": {name: figure.as_json() for name, figure in found.figures.items()},
        "left out": list(found.notes),
    }
    write_note(cell.out / RESULT, content)


def measure_cell(judging: Judging, virtual: Path, out: Path, device: str) -> Evaluation:
    """Hold virtual tiles against the real ones; the figures of each tile are written to `out`."""
    judges = find_judges(None, None, judging.extractors, "default", _place(device))
    return evaluate(virtual, judging.real, out, he=judging.he, judges=judges)


def _place(device: str) -> str:
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def work_auxiliary(recipe: Recipe, data: Path, folder: Path, device: str, note: Path, console: Console | None) -> None:
    """Train a model that cells need first; to be called in a fresh process."""
    before, start = steps_done(folder / STATE), time.monotonic()
    train(recipe, data, folder, device=device, console=console)
    seconds, steps = time.monotonic() - start, steps_done(folder / STATE)
    note.parent.mkdir(parents=True, exist_ok=True)
    write_note(note, {"steps": steps, "seconds": _whole(seconds, steps, before)})


def work_length(cell: Cell, console: Console | None) -> None:
    """Find how many steps of a cell's row fit into the minutes of its budget; to be called in a fresh process.

    All seeds of a row take the same number, which is kept.
    """
    del console  # it takes no longer than a moment
    assert cell.length
    assert cell.budget.minutes
    steps = max(1, round(cell.budget.minutes * 60 / _seconds_per_step(cell)))
    cell.length.parent.mkdir(parents=True, exist_ok=True)
    write_note(cell.length, {"steps": steps, "recipe": _unseeded(cell.recipe)})


def knows_length(cell: Cell) -> bool:
    """Whether the steps of a cell's row are known: it has no minutes, or they were found for this recipe."""
    if not cell.length:
        return True
    return cell.length.is_file() and read_note(cell.length)["recipe"] == _unseeded(cell.recipe)


def _train(cell: Cell, console: Console | None) -> Training:
    """Train, or read what an earlier training took."""
    note = cell.out / _TRAINED
    if note.is_file():
        return Training(**read_note(note))
    cell.out.mkdir(parents=True, exist_ok=True)
    recipe = _limited(cell)
    before, start = steps_done(cell.run / STATE), time.monotonic()
    train(recipe, cell.data, cell.run, device=cell.device, console=console)
    seconds, steps = time.monotonic() - start, steps_done(cell.run / STATE)
    training = Training(steps, steps * recipe.data.batch_size, _whole(seconds, steps, before), peak_bytes())
    write_note(note, asdict(training))
    return training


def _whole(seconds: float, steps: int, before: int) -> float:
    """What all steps take, by those that were done now, after `before` others; not a number where there were none."""
    return seconds * steps / (steps - before) if steps > before else math.nan


def _limited(cell: Cell) -> Recipe:
    """The recipe with the length that the budget allows, and states saved often enough to lose little."""
    steps = int(read_note(cell.length)["steps"]) if cell.length else cell.budget.steps
    if steps is None:
        return cell.recipe
    recipe = cell.recipe.with_steps(steps)
    often = min(recipe.training.save_every_steps, -(-steps // 4))
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"save_every_steps": often})})


def _seconds_per_step(cell: Cell) -> float:
    """Train a little and a little longer, and throw all away; auxiliary models are there already."""
    took = []
    cell.run.parent.mkdir(parents=True, exist_ok=True)
    for steps in _PROBES:
        with tempfile.TemporaryDirectory(dir=cell.run.parent, prefix=PROBE) as folder:
            start = time.monotonic()
            train(cell.recipe.with_steps(steps), cell.data, Path(folder), device=cell.device)
            took.append(time.monotonic() - start)
    return max(1e-4, (took[2] - took[1]) / (_PROBES[2] - _PROBES[1]))


def peak_bytes() -> int:
    """Most memory that this process has held so far: on the GPU where it used one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # unlike getrusage, this leaves out the parent that the process was started from
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _settings(recipe: Recipe) -> dict[str, Any]:
    """What determines the weights, as JSON gives it back."""
    return dict(json.loads(json.dumps(identity(recipe.table()))))


def _unseeded(recipe: Recipe) -> dict[str, Any]:
    """What all seeds of a row have in common."""
    return {key: value for key, value in _settings(recipe).items() if key.rpartition(".")[2] != "seed"}


def write_note(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON in one piece."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_note(path: Path) -> dict[str, Any]:
    """Read what `write_note` wrote.

    Raises:
        OutputError: it is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError, OSError) as error:
        raise OutputError(f"{path} cannot be read ({error}); remove it and run the same command again") from error
