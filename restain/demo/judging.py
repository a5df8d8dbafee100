"""Whole slides that were stained, cut into tiles and measured against the truth."""

from collections.abc import Mapping
from pathlib import Path

from restain.image import save_image
from restain.metrics import Evaluation, evaluate
from restain.slides.reader import open_slide
from restain.slides.tissue import find_tissue

TILE_PX = 256
LEAST_TISSUE = 0.5


def cut_tiles(slides: Mapping[str, Path], tissue_of: Path, out: Path) -> None:
    """Cut slides in register into tiles with tissue, to `out/NAME/X_Y.png`.

    Args:
        slides: name -> slide, all of one size.
        tissue_of: the slide on which tissue is looked for.
        out: folder.
    """
    with open_slide(tissue_of) as slide:
        tissue = find_tissue(slide)
        places = [
            (x, y)
            for y in range(0, slide.size[1] - TILE_PX + 1, TILE_PX)
            for x in range(0, slide.size[0] - TILE_PX + 1, TILE_PX)
            if tissue.share(x, y, TILE_PX, TILE_PX) >= LEAST_TISSUE
        ]
    for name, path in slides.items():
        with open_slide(path) as slide:
            for x, y in places:
                save_image(out / name / f"x{x:05d}_y{y:05d}.png", slide.read((x, y), (TILE_PX, TILE_PX), slide.mpp))


def measure(out: Path, names: Mapping[str, str], truth: str, he: str) -> dict[str, Evaluation]:
    """Measure tiles that `cut_tiles` has cut.

    Args:
        out: its folder.
        names: column of the table -> name.
        truth: name of the true IHC.
        he: name of the H&E.
    """
    return {column: evaluate(out / name, out / truth, he=out / he) for column, name in names.items()}
