"""The map of trust beside the result of a slide: with whom it is made, and whether it would come out otherwise now."""

import csv
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from restain.checkpoint import read_info
from restain.errors import InputError
from restain.slides.identity import job_key
from restain.staining.plan import Plan
from restain.staining.prepare import network_of
from restain.staining.settings import Model, OnProgress, SlideSettings, load_model

if TYPE_CHECKING:
    from restain.staining.slide_trust import SlideTrust


def load_others(model: Model, settings: SlideSettings) -> list[Model]:
    """Load the further checkpoints that the map asks.

    Raises:
        MissingError, CheckpointError: one cannot be used.
        InputError: one is of another shape or resolution, so that it would need other tiles and other memory.
    """
    others = [load_model(path, model.device) for path in settings.also_models]
    for other in others:
        shapes = {(one.generator.halo_px, one.generator.multiple, one.generator.config.width) for one in (model, other)}
        if len(shapes) > 1 or len({model.mpp, other.mpp} - {None}) > 1:
            raise InputError(
                f"--also-model {other.name} has another shape or resolution than {model.name}; both are shown the same"
                " tiles of a slide, so give one that was trained as the model was"
            )
    return others


def make_map(
    model: Model,
    others: Sequence[Model],
    plan: Plan,
    settings: SlideSettings,
    statistics: Path,
    on_progress: OnProgress | None = None,
) -> "SlideTrust":
    """Make the map of a slide.

    Args:
        model: what stained it.
        others: from `load_others`.
        plan: of the slide.
        settings: as it was stained.
        statistics: of the norms of the model, as in `network_of`; those of the others are not kept.
        on_progress: called after each tile.

    Raises:
        InputError: the slide is damaged.
    """
    from restain.staining.slide_trust import map_trust  # brings matplotlib

    networks = [network_of(model, plan, settings, statistics)]
    with TemporaryDirectory() as folder:
        networks += [network_of(other, plan, settings, Path(folder, other.sha256)) for other in others]
    return map_trust(networks, plan, model.familiarity, on_progress)


def made_with(model: Model, settings: SlideSettings) -> str:
    """Names what a map depends on besides the result: what the model knows of its training, and who else is asked."""
    known = model.familiarity.as_json() if model.familiarity else None
    also = [read_info(path).sha256 for path in settings.also_models]
    return job_key({"familiarity": known, "also models": also})[:16]


def is_mapped(model: Model, settings: SlideSettings, table: Path, picture: Path) -> bool:
    """Whether both files of a map are there, and are those that this model and the others would give again."""
    try:
        with table.open(encoding="utf-8", newline="") as file:
            said = next(csv.DictReader(file), {}).get("made_with")
    except (OSError, ValueError):
        return False
    return picture.exists() and said == made_with(model, settings)
