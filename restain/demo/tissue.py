"""The drawn tissue of the demo: tiles to begin with, a section on two slides to learn from, a slide to judge by."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from restain.data.phantom import (
    NeighbourSettings,
    PhantomNeighbour,
    PhantomPair,
    PhantomSettings,
    PhantomSlide,
    draw_pair,
)
from restain.demo.stages import Tell
from restain.image import RGB, save_image
from restain.randomness import derive_seed
from restain.slides.tiff import Description
from restain.slides.writer import write_slide

MPP = 0.5
TILE_PX = 384
LEARNT_PX, JUDGED_PX = 3072, 1536
"""Sides of the slides that are learned from, and of the one that is stained and measured."""
COVERAGE = 0.45
BESIDE = NeighbourSettings(depth_um=0.0)
"""The IHC is of the very section, stained again: so brief a training cannot make use of a neighbour's other cells."""
LEVELS = (0.35, 0.6)
"""Activity of a tissue whose tumour cells are positive in part."""


@dataclass(frozen=True)
class DrawnSlides:
    """Where the slides lie, and the seeds that draw them."""

    folder: Path
    laboratory: int
    learnt_seed: int
    judged_seed: int

    @property
    def he(self) -> Path:
        """H&E to learn from."""
        return self.folder / "section-1-he.ome.tif"

    @property
    def ihc(self) -> Path:
        """IHC of the same section, stained again."""
        return self.folder / "section-1-ihc.ome.tif"

    @property
    def judged_he(self) -> Path:
        """H&E of other tissue."""
        return self.folder / "held-out-he.ome.tif"

    @property
    def judged_ihc(self) -> Path:
        """The true IHC of the very same section."""
        return self.folder / "held-out-truth.ome.tif"


def plan_slides(folder: Path, seed: int) -> DrawnSlides:
    """Choose tissues that have positive and negative tumour cells."""
    fitting = (
        number
        for number in (derive_seed(seed, "demo", index) % 1_000_000 for index in count())
        if LEVELS[0] <= PhantomSlide(number, JUDGED_PX).tissue.anatomy.level <= LEVELS[1]
    )
    return DrawnSlides(folder, seed, next(fitting), next(fitting))


def draw_tiles(folder: Path, seed: int, tell: Tell) -> None:
    """Draw one tile of each grade, H&E and its true IHC, to `he` and `truth` in a folder."""
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    found: dict[int, PhantomPair] = {}
    for index in count():
        pair = draw_pair(derive_seed(seed, "demo tile", index), PhantomSettings(size_px=TILE_PX, mpp=MPP))
        if found.setdefault(pair.cells.grade, pair) is pair:
            tell(len(found), 4)
        if len(found) == 4:
            break
    for grade, pair in found.items():
        save_image(unfinished / "he" / f"grade-{grade}.png", pair.he)
        save_image(unfinished / "truth" / f"grade-{grade}.png", pair.ihc_aligned)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)


def draw_learnt(slides: DrawnSlides, tell: Tell) -> None:
    """Draw the section in H&E and stained again."""
    slide = PhantomSlide(
        slides.learnt_seed, LEARNT_PX, mpp=MPP, coverage=COVERAGE, framed=True, laboratory=slides.laboratory
    )
    beside = PhantomNeighbour(slide, BESIDE)
    size = (LEARNT_PX, LEARNT_PX)
    _write(slides.he, size, beside.he, "H&E", slide.he_glass, slide, _half(tell, 0))
    _write(slides.ihc, beside.size, beside.ihc, "HER2", beside.glass, slide, _half(tell, 1))


def draw_judged(slides: DrawnSlides, tell: Tell) -> None:
    """Draw the slide that is stained, and its truth."""
    slide = PhantomSlide(slides.judged_seed, JUDGED_PX, mpp=MPP, coverage=COVERAGE, laboratory=slides.laboratory)
    size = (JUDGED_PX, JUDGED_PX)
    _write(slides.judged_he, size, slide.he, "H&E", slide.he_glass, slide, _half(tell, 0))
    _write(slides.judged_ihc, size, slide.ihc, "HER2", slide.ihc_glass, slide, _half(tell, 1))


def _write(
    path: Path,
    size: tuple[int, int],
    tile: Callable[[int, int, int, int], RGB | None],
    stain: str,
    glass: tuple[int, int, int],
    slide: PhantomSlide,
    tell: Tell,
) -> None:
    """Write one slide; under its name it is whole."""
    if not path.exists():
        description = Description(f"drawn tissue, {stain}", MPP, stain)
        write_slide(path, size, tile, description, background=glass, job=f"{path.name} {slide}", on_progress=tell)


def _half(tell: Tell, nth: int) -> Tell:
    """Progress of one of two parts of like size."""
    return lambda done, total: tell(nth * total + done, 2 * total)
