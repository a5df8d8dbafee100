"""The whole way at once: starter weights on drawn tissue; then two slides, pairs, training, a stain, figures."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console

from restain.checkpoint import load_generator
from restain.demo import tissue
from restain.demo.judging import cut_tiles, measure
from restain.demo.page import Content, SlidesInRegister, write_page
from restain.demo.pictures import detail_row, own_row, tile_rows, whole_row
from restain.demo.stages import Journal, Tell
from restain.demo.tissue import DrawnSlides
from restain.errors import RestainError
from restain.image import load_image, make_folder, remove_unfinished
from restain.metrics import Evaluation
from restain.models import find_model, packaged_models
from restain.registration.cut import OVERLAY, SHEET, SLIDES
from restain.registration.data_set import CutJob, cut_data_set
from restain.registration.jobs import one_pair
from restain.registration.slides import Demands
from restain.registration.tiling import CutSettings
from restain.staining.images import stain_files
from restain.staining.slide import stain_slide
from restain.training import load_recipe, train
from restain.workers.lock import locked

PAGE = "index.html"
STARTER, REAL = "phantom-her2", "colon-panck"
RECIPE, STEPS = "restain-small", 100
SETTINGS = (
    "data.stain=HER2",
    f"data.mpp={tissue.MPP}",
    "training.log_every_steps=5",
    "training.save_every_steps=25",
    "training.sample_every_steps=0",
)
PAIR_PX = 256
GRADES = {
    "grade-3": "3+: most tumour cells are positive",
    "grade-2": "2+: about half of them",
    "grade-1": "1+: some",
    "grade-0": "0: next to none",
}


@dataclass(frozen=True)
class Contender:
    """A model that stains the held-out slide."""

    name: str
    """On the page."""
    key: str
    """Of its files."""
    trained: bool = True
    start: str | None = None
    """Name of the weights that its training starts from."""


CONTENDERS = (
    Contender("starter weights", "starter", trained=False),
    Contender("from starter weights", "tuned", start=STARTER),
    Contender("from scratch", "scratch"),
)


def run_demo(
    out: Path, seed: int = 0, console: Console | None = None, *, slide: Path | None = None, mpp: float | None = None
) -> Path:
    """Do everything that was not done before, and write the page: at once when the first tiles are stained, then again.

    Args:
        out: folder for all results, made where it is missing. A demo that was stopped goes on.
        seed: of the tissue and the trainings.
        console: where progress is shown; nowhere if None.
        slide: a slide or image of the user's, stained too.
        mpp: its micrometres per pixel, where it has none or wrong ones.

    Returns:
        The page.

    Raises:
        OutputError: `out` holds something else or cannot be written, or another demo is running in it.
        MissingError, InputError: the user's slide cannot be used.
    """
    journal = Journal(out, seed, console)
    with _one_thread(), locked(out, f"another demo is running in {out}; wait for it, or give another folder"):
        remove_unfinished(out)
        return _run(out, journal, slide, mpp)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: several wait for one another at each layer, and stand still where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(out: Path, journal: Journal, slide: Path | None, mpp: float | None) -> Path:
    page, seed = out / PAGE, journal.seed
    content = _first(out, journal, slide, mpp)

    def show(under_way: str = "") -> None:
        write_page(page, replace(content, stages=journal.stages, under_way=under_way, facts=_facts(seed)))

    show("drawing two slides of a section")
    journal.console.print(f"[bold]Open {page} now; it grows as stages finish.[/bold]", highlight=False, soft_wrap=True)
    slides = tissue.plan_slides(out / "slides", seed)
    content = replace(content, registered=_pairs(out / "pairs", slides, journal))
    show("training on the pairs")
    for one in CONTENDERS:
        if one.trained:
            _train(one, out, journal)
    content = replace(
        content, curves={one.name: _curve(out / "runs" / one.key / "losses.jsonl") for one in CONTENDERS if one.trained}
    )
    show("staining a whole slide")
    stained = _stain(out, slides, journal)
    columns = {"H&E": slides.judged_he, "truth": slides.judged_ihc} | stained
    content = replace(content, judged=[whole_row(columns), detail_row(columns, slides.judged_ihc)])
    show("measuring")
    content = replace(content, evaluations=_measured(out / "tiles", slides, stained, journal))
    content = replace(content, commands=_commands(out, slides, slide))
    show()
    return page


def _first(out: Path, journal: Journal, slide: Path | None, mpp: float | None) -> Content:
    """What the starter weights do, on drawn tissue and on the user's slide."""
    drawn, virtual = out / "first", out / "first-stained"
    own = None
    if slide is not None:
        models = {f"virtual cytokeratin ({REAL})": REAL, f"virtual HER2 ({STARTER})": STARTER}
        own = journal.always(
            f"Stain a part of {slide.name}",
            f"restain view {slide} --model {REAL} --model {STARTER}",
            lambda _: own_row(slide, mpp, models),
        )
    journal.once("Draw one tile of each grade", "", lambda tell: tissue.draw_tiles(drawn, journal.seed, tell))
    journal.once(
        "Stain them with the starter weights",
        f"restain stain {drawn / 'he'} --model {STARTER} --out {virtual}",
        lambda _: _stain_tiles(drawn / "he", virtual),
    )
    tiles = tile_rows({"H&E": drawn / "he", "virtual HER2": virtual, "truth": drawn / "truth"}, GRADES)
    return Content(tiles, load_image(packaged_models()[REAL].picture), own)


def _stain_tiles(he: Path, out: Path) -> None:
    for error in stain_files(load_generator(STARTER), [he], out, overwrite=True).failures.values():
        raise error


def _pairs(root: Path, slides: DrawnSlides, journal: Journal) -> SlidesInRegister:
    """Draw a section on two slides, register them, cut pairs."""
    journal.once(
        "Draw one section on two slides: H&E, and restained as IHC",
        f"restain phantom --slide {slides.he} --neighbour {slides.ihc} --size {tissue.LEARNT_PX}"
        f" --depth {tissue.BESIDE.depth_um:g}"
        f" --coverage {tissue.COVERAGE} --seed {slides.learnt_seed} --laboratory {slides.laboratory}",
        lambda tell: tissue.draw_learnt(slides, tell),
    )
    pair = one_pair(slides.he, slides.ihc)
    job = CutJob(root, CutSettings(tissue.MPP, PAIR_PX, PAIR_PX), Demands(), threads=2)

    def cut(tell: Tell) -> None:
        outcome = cut_data_set([pair], job, on_event=lambda _, __, done, total: tell(done, max(total, 1)))
        for words in outcome.failures.values():
            raise RestainError(words)

    journal.once(
        "Register them and cut pairs of tiles",
        f"restain pairs cut {slides.he} {slides.ihc} --out {root} --size {PAIR_PX}",
        cut,
    )
    (report,) = cut_data_set([pair], job).reports  # done: it only tells what there is
    facts = [
        f"{report.kept} of {report.tiles} tiles kept",
        f"{report.figures['agreement']:.0%} of the blocks agree",
        f"residual misalignment {report.figures['residual_um']:.1f} µm",
    ]
    folder = root / SLIDES / pair.name
    return SlidesInRegister(load_image(folder / OVERLAY), load_image(folder / SHEET), facts)


def _train(one: Contender, out: Path, journal: Journal) -> None:
    """Train briefly on the pairs."""
    settings = [f"seed={journal.seed}", *SETTINGS]
    run, data = out / "runs" / one.key, out / "pairs"
    journal.once(
        f"Train {STEPS} steps {one.name}",
        f"restain train {RECIPE} --data {data} --out {run} --steps {STEPS}"
        + (f" --init {one.start}" if one.start else "")
        + "".join(f" --set {setting}" for setting in settings),
        lambda _: train(
            load_recipe(RECIPE, settings),
            data,
            run,
            steps=STEPS,
            start=find_model(one.start) if one.start else None,
            console=journal.console,
        ),
    )


def _curve(log: Path) -> list[tuple[int, float]]:
    """The L1 distance over the steps of a run."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [(row["step"], row["generator/l1"]) for row in rows]


def _stain(out: Path, slides: DrawnSlides, journal: Journal) -> dict[str, Path]:
    """Draw the held-out slide and stain it by each contender; returns the results by name."""
    journal.once(
        "Draw a slide of other tissue, and its truth",
        f"restain phantom --slide {slides.judged_he} --ihc {slides.judged_ihc} --size {tissue.JUDGED_PX}"
        f" --coverage {tissue.COVERAGE} --seed {slides.judged_seed} --laboratory {slides.laboratory}",
        lambda tell: tissue.draw_judged(slides, tell),
    )
    results = {}
    for one in CONTENDERS:
        model = str(out / "runs" / one.key / "model.safetensors") if one.trained else STARTER
        target = results[one.name] = out / "stained" / f"{one.key}.ome.tif"

        def stain(tell: Tell, model: str = model, target: Path = target) -> None:
            make_folder(target.parent)
            stain_slide(
                find_model(model), slides.judged_he, target, on_progress=lambda done, total, *_: tell(done, total)
            )

        journal.once(
            f"Stain it without seams: {one.name}",
            f"restain stain-slides {slides.judged_he} --model {model} --out {target}",
            stain,
        )
    return results


def _measured(
    tiles: Path, slides: DrawnSlides, stained: Mapping[str, Path], journal: Journal
) -> Mapping[str, Evaluation]:
    """Compare tiles of the stained slides with the truth."""
    keys = {one.name: one.key for one in CONTENDERS}
    cut = {"he": slides.judged_he, "truth": slides.judged_ihc} | {keys[name]: path for name, path in stained.items()}
    journal.once("Cut the slides into tiles", "", lambda _: cut_tiles(cut, slides.judged_he, tiles))
    return journal.always(
        "Measure them against the truth",
        f"restain evaluate --virtual {tiles / CONTENDERS[0].key} --real {tiles / 'truth'} --he {tiles / 'he'}",
        lambda _: measure(tiles, {"the H&E as it is": "he"} | keys, "truth", "he"),
    )


def _commands(out: Path, slides: DrawnSlides, own: Path | None) -> dict[str, str]:
    """What to do next."""
    tuned = out / "runs" / CONTENDERS[1].key / "model.safetensors"
    transform = out / "pairs" / SLIDES / one_pair(slides.he, slides.ihc).name / "transform.json"
    return {
        "Look at this slide in the viewer": f"restain view {slides.judged_he} --model {STARTER} --model {tuned}",
        "Both slides of the section, one over the other": f"restain view {slides.he} --model {tuned} --ihc {slides.ihc}"
        f" --transform {transform}",
        "Your own slide in the viewer": f"restain view {own or 'SLIDE.svs'} --model {REAL}",
        "Pairs from your own sections": "restain pairs cut he.svs ihc.svs --out pairs",
        "A longer training": f"restain train {RECIPE} --data pairs --out runs/mine --init {REAL}",
    }


def _facts(seed: int) -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "Drawn tissue": f"{tissue.MPP} µm per px, membrane marker",
        "Seed": str(seed),
        "Machine": f"{device}; {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "Software": f"restain {version('restain')}, torch {torch.__version__}, Python {platform.python_version()}",
    }
