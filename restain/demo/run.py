"""The whole way at once: draw tissue, train two methods, stain what neither has seen, measure it, write a page."""

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import torch
from rich.console import Console

from restain.checkpoint import load_generator, read_info
from restain.data.grades import GRADES
from restain.data.pairs import PairedTiles
from restain.data.phantom import PhantomSettings, write_pairs
from restain.demo.alignment import recover_displacement
from restain.demo.figures import Curve
from restain.demo.page import Content, Example, write_page
from restain.demo.stages import Journal
from restain.errors import OutputError
from restain.image import atomic_path, load_image
from restain.methods.vsmt import Vsmt
from restain.metrics import Evaluation, evaluate
from restain.staining.images import stain_files
from restain.training import load_recipe, train
from restain.training.trained import load_method

PAGE = "index.html"
PAIRS, HELD_OUT = 80, 16
TISSUE = PhantomSettings(size_px=256, mpp=1.0)


@dataclass(frozen=True)
class Contender:
    """A method that takes part."""

    name: str
    """On the page."""
    key: str
    """Of its recipe beside this file, and of its folders."""
    training: str
    """What is trained, as the page says it."""


BASELINE = Contender("No guidance", "baseline", "the same network without guidance, for as many steps")
GUIDED = Contender("VSMT", "vsmt", "four auxiliary models, then VSMT")


@dataclass(frozen=True)
class Result:
    """What came out for one contender."""

    evaluation: Evaluation
    curves: Mapping[str, Curve]
    recipe: str
    stained: Path
    run: Path


def run_demo(out: Path, seed: int = 0, console: Console | None = None) -> Path:
    """Do everything that was not done before, and write the page.

    Args:
        out: folder for all results, made where it is missing. A demo that was stopped goes on.
        seed: of the tissue, the trainings and the clustering.
        console: where progress is shown; nowhere if None.

    Returns:
        The page.

    Raises:
        OutputError: `out` holds something else, or cannot be written.
    """
    journal = Journal(out, seed, console)
    data = out / "pairs"
    journal.once(
        f"Draw {PAIRS} pairs of neighbouring sections, {HELD_OUT} of them held out",
        f"restain phantom {data} --pairs {PAIRS} --validation {HELD_OUT} --size {TISSUE.size_px} --mpp {TISSUE.mpp:g}"
        f" --seed {seed}",
        lambda: _draw(data, seed),
    )
    results = {method.name: _contend(method, out, data, journal) for method in (BASELINE, GUIDED)}
    guided = results[GUIDED.name]
    recovery = journal.always(
        "Read the alignment as a displacement", "", lambda: recover_displacement(_vsmt(guided.run), data, seed)
    )
    content = Content(
        examples=_examples(data, results),
        evaluations={name: result.evaluation for name, result in results.items()},
        curves={name: result.curves for name, result in results.items()},
        recovery=recovery,
        stages=journal.stages,
        facts=_facts(guided.run, seed),
        recipes={name: result.recipe for name, result in results.items()},
    )
    write_page(out / PAGE, content)
    return out / PAGE


def _contend(method: Contender, out: Path, data: Path, journal: Journal) -> Result:
    """Train, stain, measure."""
    recipe, run = out / f"{method.key}.toml", out / "runs" / method.key
    stained, measured, model = out / "stained" / method.key, out / "measured" / method.key, run / "model.safetensors"
    he, truth = (data / "TrainValAB" / folder for folder in ("valA", "valB_aligned"))
    text = files(__package__).joinpath(recipe.name).read_text(encoding="utf-8")
    with atomic_path(recipe) as temporary:
        temporary.write_text(text, encoding="utf-8")
    overrides = [f"seed={journal.seed}"]
    journal.once(
        f"Train {method.training}",
        f"restain train {recipe} --data {data} --out {run} --set {overrides[0]}",
        lambda: train(load_recipe(recipe, overrides), data, run, console=journal.console),
    )
    journal.once(
        f"Stain the held-out tiles: {method.name}",
        f"restain stain {he} --model {model} --out {stained}",
        lambda: _stain(he, model, stained),
    )
    evaluation = journal.always(
        f"Measure them by the truth: {method.name}",
        f"restain evaluate --virtual {stained} --real {truth} --out {measured}",
        lambda: evaluate(stained, truth, measured),
    )
    return Result(evaluation, read_curves(run / "losses.jsonl"), text, stained, run)


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The losses of a run over its steps, by name."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if "/" in name:
                curves.setdefault(name, []).append((row["step"], value))
    return curves


def _draw(data: Path, seed: int) -> None:
    """Draw beside the final place first, so that a stop in between leaves nothing that looks complete."""
    if data.exists():  # whole: the stop came before the journal could tell
        return
    unfinished = data.with_name(f"{data.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    write_pairs(unfinished, PAIRS, validation=HELD_OUT, seed=seed, settings=TISSUE)
    unfinished.rename(data)


def _stain(he: Path, model: Path, out: Path) -> None:
    for error in stain_files(load_generator(model), [he], out, overwrite=True).failures.values():
        raise error


def _vsmt(run: Path) -> Vsmt:
    method = load_method(run)
    if not isinstance(method, Vsmt):
        raise OutputError(f"{run} is not the demo's run of vsmt; give a new folder")
    return method


def _examples(data: Path, results: Mapping[str, Result]) -> list[Example]:
    """The first held-out tile of each grade, the highest grade first."""
    pairs = PairedTiles(data, "val")
    chosen = {grade: index for index, grade in reversed(list(enumerate(pairs.grades)))}
    examples = []
    for grade, index in sorted(chosen.items(), reverse=True):
        pair = pairs.files[index]
        columns = {"H&E": pair.he, "Real neighbour": pair.ihc}
        columns |= {name: results[name].stained / f"{pair.name}.png" for name in (GUIDED.name, BASELINE.name)}
        columns |= {"Truth": pair.ihc.parent.with_name("valB_aligned") / pair.ihc.name}
        images = {column: load_image(path) for column, path in columns.items()}
        examples.append(Example(pair.name, f"grade {GRADES[grade]}, the first of its grade", images))
    return examples


def _facts(run: Path, seed: int) -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "Tissue": f"{TISSUE.size_px}×{TISSUE.size_px} px at {TISSUE.mpp:g} µm/px, {TISSUE.marker} marker, neighbour"
        f" {TISSUE.depth_um:g} µm deeper, displaced by up to {TISSUE.displacement * TISSUE.size_px:.0f} px",
        "Generator": f"{read_info(run / 'model.safetensors').parameters:,} weights",
        "Seed": str(seed),
        "Machine": f"{device}; {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "Software": f"restain {version('restain')}, torch {torch.__version__}, Python {platform.python_version()}",
    }
