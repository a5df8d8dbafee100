"""One cell of a bench: a recipe with one seed, trained, stained and measured in a separate process.

A separate process gives each cell its own peak memory, and a crash does not affect other cells.
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
"""Prefix of the folders of trial trainings, beside those of the cells; a kill may leave them."""
_PROBES = (4, 4, 12)
"""Steps of trial trainings: the first warms up, the difference of the others measures the time per step."""


@dataclass(frozen=True)
class Judging:
    """The data and networks that every cell is evaluated with."""

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
    """Folder of the training; auxiliary models are beside it."""
    out: Path
    """Folder of the stained tiles and of the result."""
    budget: Budget
    judging: Judging
    device: str
    auxiliary: tuple[Path, ...] = ()
    """Notes on the cost of its auxiliary models."""
    length: Path | None = None
    """Note on the number of steps of its row, if the budget is in minutes."""

    def done(self) -> bool:
        """Whether its result exists.

        Raises:
            OutputError: it is the result of another recipe.
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
    """Cost of a training."""

    steps: int
    pairs: int
    """Pairs seen: steps times batch."""
    seconds: float
    """Of the method alone. After an interruption: steps times the seconds per step since then; NaN without a step since
    then."""
    peak_bytes: int
    """Peak memory of the process, on the GPU if there is one."""


def work(cell: Cell, console: Console | None) -> None:
    """Do the remaining work of a cell; to be called in a fresh process."""
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
    """Evaluate virtual tiles against real ones; the figures of each tile are written to `out`."""
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

    All seeds of a row use the same number, which is stored.
    """
    del console  # it takes no longer than a moment
    assert cell.length
    assert cell.budget.minutes
    steps = max(1, round(cell.budget.minutes * 60 / _seconds_per_step(cell)))
    cell.length.parent.mkdir(parents=True, exist_ok=True)
    write_note(cell.length, {"steps": steps, "recipe": _unseeded(cell.recipe)})


def knows_length(cell: Cell) -> bool:
    """Whether the steps of a cell's row are known: its budget is not in minutes, or they were measured."""
    if not cell.length:
        return True
    return cell.length.is_file() and read_note(cell.length)["recipe"] == _unseeded(cell.recipe)


def _train(cell: Cell, console: Console | None) -> Training:
    """Train, or read the cost of an earlier training, which `train` checks to be of this recipe and these data."""
    note = cell.out / _TRAINED
    cell.out.mkdir(parents=True, exist_ok=True)
    recipe = _limited(cell)
    before, start = steps_done(cell.run / STATE), time.monotonic()
    train(recipe, cell.data, cell.run, device=cell.device, console=console)
    seconds, steps = time.monotonic() - start, steps_done(cell.run / STATE)
    if note.is_file() and steps == before:
        return Training(**read_note(note))
    training = Training(steps, steps * recipe.data.batch_size, _whole(seconds, steps, before), peak_bytes())
    write_note(note, asdict(training))
    return training


def _whole(seconds: float, steps: int, before: int) -> float:
    """Seconds of all steps, from those done now after `before` others; NaN if there were none."""
    return seconds * steps / (steps - before) if steps > before else math.nan


def _limited(cell: Cell) -> Recipe:
    """The recipe with the length of the budget, and frequent saved states."""
    steps = int(read_note(cell.length)["steps"]) if cell.length else cell.budget.steps
    if steps is None:
        return cell.recipe
    recipe = cell.recipe.with_steps(steps)
    often = min(recipe.training.save_every_steps, -(-steps // 4))
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"save_every_steps": often})})


def _seconds_per_step(cell: Cell) -> float:
    """Measure the time per step with trial trainings, which are discarded; auxiliary models already exist."""
    took = []
    cell.run.parent.mkdir(parents=True, exist_ok=True)
    for steps in _PROBES:
        with tempfile.TemporaryDirectory(dir=cell.run.parent, prefix=PROBE) as folder:
            start = time.monotonic()
            train(cell.recipe.with_steps(steps), cell.data, Path(folder), device=cell.device)
            took.append(time.monotonic() - start)
    return max(1e-4, (took[2] - took[1]) / (_PROBES[2] - _PROBES[1]))


def peak_bytes() -> int:
    """Peak memory of this process so far: on the GPU if it used one, else resident."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.is_file():  # unlike getrusage, this excludes the parent process
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that determine the weights, as JSON values."""
    return dict(json.loads(json.dumps(identity(recipe.table()))))


def _unseeded(recipe: Recipe) -> dict[str, Any]:
    """The key that all seeds of a row share."""
    return {key: value for key, value in _settings(recipe).items() if key.rpartition(".")[2] != "seed"}


def write_note(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
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
