"""Run the missing cells of a bench, several at a time if requested, and write the table."""

import hashlib
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from restain.bench.cell import PROBE, Cell, knows_length, read_note, work, work_auxiliary, work_length, write_note
from restain.bench.floors import floors_of, work_floor
from restain.bench.held_out import gather
from restain.bench.page import write_outputs
from restain.bench.rows import Budget, Row
from restain.bench.table import BenchTable, collect
from restain.bench.units import Unit, UnitProgress, run_units, without_unmet
from restain.data.layouts import find_layout
from restain.errors import InputError, OutputError
from restain.folders import list_images
from restain.image import is_unfinished, remove_unfinished
from restain.training import Recipe
from restain.training.folder import list_files, weight
from restain.training.run import auxiliary_runs
from restain.workers.lock import locked
from restain.workers.pool import Pool, Processes
from restain.workers.ray import connected


@dataclass(frozen=True)
class BenchOutcome:
    """The result of a bench."""

    table: BenchTable
    page: Path
    failures: dict[str, str]
    """Why cells or auxiliary models have no result, by name."""


def run_bench(
    rows: Sequence[Row],
    data: Path,
    out: Path,
    *,
    budget: Budget | None = None,
    seeds: int = 3,
    truth: Path | None = None,
    tiles: int | None = None,
    reference: str | None = None,
    extractors: Sequence[tuple[str, Path]] = (),
    processes: int = 1,
    device: str = "auto",
    ray: str | None = None,
    console: Console | None = None,
) -> BenchOutcome:
    """Train every row with every seed under one budget, stain the held-out tiles, measure them, and write one table.

    Finished work is kept and stopped trainings resume; a cell that fails does not stop others.

    Args:
        rows: what to compare.
        data: the data set; rows train on its training part and are evaluated on its held-out part.
        out: folder of the bench: `table.md`, `table.json`, `index.html`, and everything that they are based on.
        budget: of each row, from its recipe if None; auxiliary models, which rows share, are not counted.
        seeds: number of trainings per row, with seeds 0, 1, …
        truth: folder of IHC registered with the held-out H&E; the data set's IHC if None.
        tiles: number of held-out tiles to evaluate, spread evenly; all if None.
        reference: name of the row that others are compared with; the first if None.
        extractors: networks for FID and KID, as (module:attribute, weights).
        processes: cells at a time, spread over the GPUs.
        device: `cpu`, `cuda`, or `auto` for a GPU if there is one.
        ray: address of a Ray cluster whose machines see the same files, or `local`; cells run there, with one GPU each.
        console: where progress is shown; nowhere if None.

    Raises:
        ConfigError, MissingError, InputError: a recipe or the data set is wrong; reported before any work.
        OutputError: `out` has other files, or a bench with a different budget, tiles or extractor, or images have
            changed since it was begun, or another process is working in it.
    """
    budget = budget or Budget()
    names = [row.name for row in rows]
    if reference is not None and reference not in names:
        raise InputError(f"the reference {reference!r} is not a row; choose one of {', '.join(names)}")
    data, out = data.absolute(), out.absolute()
    recipes = {(row, seed): row.load(seed) for row in rows for seed in range(seeds)}
    judged_by = ", ".join(f"{entry}={weights.absolute()}" for entry, weights in extractors) or None
    judged_on = {"tiles": tiles, "truth": str(truth) if truth else None, "extractor": judged_by}
    _take(out, {"data": str(data), "budget": budget.words, **judged_on}, _images_key(data, truth))
    with locked(out, f"another bench is running in {out}; wait for it, or give another folder"):
        remove_unfinished(out)
        judging = gather(data, out / "held-out", truth, tiles, tuple(extractors))
        cells: list[Cell] = []
        needed: dict[Path, Recipe] = {}
        for (row, seed), recipe in recipes.items():
            name = f"{row.key}-{seed}"
            auxiliary = auxiliary_runs(recipe, data, out / "runs" / name)
            cell = Cell(
                row.name, seed, recipe, data, out / "runs" / name, out / "cells" / name, budget, judging, device,
                tuple(_note(out, folder) for folder in auxiliary),
                out / "cells" / f"{row.key}-length.json" if budget.minutes else None,
            )  # fmt: skip
            cells.append(cell)
            if not cell.done():
                needed |= {folder: model for folder, model in auxiliary.items() if not _note(out, folder).is_file()}
        models = [
            Unit(_model(folder.name), work_auxiliary, (model, data, folder, device, _note(out, folder)))
            for folder, model in needed.items()
        ]
        left = [cell for cell in cells if not cell.done()]
        untimed = {cell.row: cell for cell in reversed(left) if not knows_length(cell)}
        timings = [Unit(_length(row), work_length, (cell,), _models(cell)) for row, cell in untimed.items()]
        units = [
            Unit(f"{cell.row}, seed {cell.seed}", work, (cell,), (*_models(cell), _length(cell.row))) for cell in left
        ]
        floors = floors_of(data, out / "floors", judging, device)
        units += [Unit(floor.name, work_floor, (floor,)) for floor in floors if not floor.done()]
        for left_over in (out / "runs").glob(f"{PROBE}*"):
            shutil.rmtree(left_over)
        progress = UnitProgress(console, len(models) + len(timings) + len(units))
        failures = dict[str, str]()
        with ExitStack() as stack:
            pool: Pool = Processes(processes, device, attempts=1)
            if ray and units:
                pool = stack.enter_context(connected(ray, processes, None if device == "auto" else device))
            for some in (models, timings, units):  # each needs the ones before
                able = without_unmet(some, failures, progress)
                failures |= run_units(able, pool, progress, show=processes == 1 and not ray and console is not None)
        table = collect(rows, cells, floors, reference or names[0], budget)
        return BenchOutcome(table, write_outputs(out, table, cells, failures), failures)


def _model(name: str) -> str:
    return f"auxiliary model {name}"


def _length(row: str) -> str:
    return f"length of {row}"


def _models(cell: Cell) -> tuple[str, ...]:
    """The units that train what a cell needs."""
    return tuple(_model(note.stem) for note in cell.auxiliary)


def _note(out: Path, folder: Path) -> Path:
    """Path of the note on the cost of an auxiliary model."""
    return out / "cells" / f"{folder.name}.json"


def _images_key(data: Path, truth: Path | None) -> str:
    """Identifies all images that trainings and figures depend on."""
    layout = find_layout(data)
    parts = [f"{part}\n{list_files(layout.pairs(part))}" for part in layout.parts]
    truths = [f"{path.stem}\t{weight(path)}\n" for path in (list_images(truth) if truth else ())]
    return hashlib.sha256("".join([*parts, *truths]).encode("utf-8", "surrogateescape")).hexdigest()


def _take(out: Path, what: dict[str, object], images: str) -> None:
    """Create the folder, or check that it belongs to this bench."""
    note = out / "bench.json"
    if note.is_file():
        before = read_note(note)
        if changed := [key for key in what if before.get(key) != what[key]]:
            key = changed[0]
            raise OutputError(
                f"{out} is a bench with a different {key} ({before.get(key)}, now {what[key]}); give another folder or "
                "the same value to resume it"
            )
        if before.get("images", images) != images:  # not recorded by earlier versions
            raise OutputError(
                f"images in {' or '.join(str(what[key]) for key in ('data', 'truth') if what[key])} have changed since "
                f"the bench in {out} was begun; restore them, or give another folder"
            )
        return
    if out.exists() and (not out.is_dir() or not all(map(is_unfinished, out.iterdir()))):
        raise OutputError(f"{out} is not empty and not a bench; give a new or empty folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {out}: {error.strerror}; choose another") from error
    write_note(note, {**what, "images": images})
