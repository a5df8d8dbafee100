"""Common statistics of many slides, so that a study is stained consistently."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from restain.errors import InputError, RestainError
from restain.image import to_tensor
from restain.networks.generator import Generator
from restain.networks.norm import NormStatistics, Slices, instance_norms, joint_statistics
from restain.slides.reader import open_slide
from restain.staining.inputs import SlideJob
from restain.staining.model import Model
from restain.staining.plan import plan_of
from restain.staining.settings import SlideSettings
from restain.staining.statistics import SAMPLE_PX, SAMPLE_TILES, sample


@dataclass
class Cohort:
    """Common statistics of many slides."""

    statistics: NormStatistics = field(default_factory=dict)
    """Joint moments of each instance norm, by the name of the layer."""
    slides: int = 0
    """Number of slides that were read."""
    failures: dict[Path, RestainError] = field(default_factory=dict)
    """Slides that could not be read."""


def cohort_statistics(
    model: Model,
    slides: Sequence[SlideJob],
    settings: SlideSettings | None = None,
    *,
    on_slide: Callable[[SlideJob], None] = lambda _: None,
) -> Cohort:
    """Joint statistics over tissue tiles of many slides, as the policy `slide` uses for a single one.

    The sample has about as many tiles as that of one slide, so that it takes the same memory: each slide gives an equal
    number, and of more slides than tiles some are left out, evenly.

    Args:
        model: from `load_model`.
        slides: from `find_slides`; their targets are ignored.
        settings: scale and tissue count, as for staining.
        on_slide: called when a slide was read.

    Raises:
        InputError: the model has no norm that needs statistics.
    """
    if not isinstance(model.generator, Generator) or not instance_norms(model.generator):
        raise InputError(f"{model.name} needs no statistics: it has no instance norm, and stains without seams anyway")
    settings = settings or SlideSettings()
    cohort = Cohort()
    windows: list[Tensor] = []
    inside: list[Slices] = []
    some = slides[:: -(-len(slides) // SAMPLE_TILES)]
    for job in some:
        try:
            with open_slide(job.source, job.mpp or settings.mpp) as slide:
                plan = plan_of(model, slide, settings)
                share = max(1, SAMPLE_TILES // len(some))
                tiles = sample(list(plan.tiles(SAMPLE_PX)), model.generator.multiple, share)
                if not tiles:
                    raise InputError(f"{job.source}: no tissue found; use no tissue mask to include everything")
                windows += [to_tensor(plan.read(tile.window)) for tile in tiles]
                inside += [tile.core.within(tile.window).slices for tile in tiles]
                cohort.slides += 1
        except RestainError as error:
            cohort.failures[job.source] = error
        on_slide(job)
    if windows:
        cohort.statistics = joint_statistics(model.generator, windows, inside)
    return cohort
