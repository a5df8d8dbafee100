"""Networks that an evaluation uses, and presets of how FID and KID are computed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from restain.errors import CheckpointError, InputError, MissingError
from restain.metrics.features import INCEPTION_FILE, INCEPTION_SOURCE, Extractor, extractor_from_entry, inception
from restain.metrics.perceptual import LABELS, Perceptual, perceptual
from restain.metrics.weights import cached_weights


@dataclass(frozen=True)
class Preset:
    """A preset: how FID and KID are computed."""

    resize: str = "pytorch-fid"
    """A name in `restain.metrics.features.RESIZES`."""
    subsets: int = 100
    """Number of subsets for KID."""
    subset_size: int | None = None
    """Tiles in each; None takes 100, or half of the tiles if there are fewer than 200."""
    side_px: int | None = None
    """Side that every tile must have."""


PRESETS = {
    "default": Preset(),
    "paper-1024": Preset(subset_size=100, side_px=1024),
    "torch-fidelity": Preset(resize="torch-fidelity", subset_size=1000),
}
"""`paper-1024`: whole tiles of 1024 px resized as in pytorch-fid, KID over 100 subsets of 100, as in papers on MIST
and BCI. `torch-fidelity`: that tool's defaults, with its resize and 100 subsets of 1,000."""


@dataclass(frozen=True)
class Judges:
    """The networks that were found, and notes on those that are missing."""

    extractors: Sequence[Extractor] = ()
    perceptuals: Sequence[Perceptual] = ()
    notes: Sequence[str] = field(default=())
    """What cannot be measured, why, and what to do; one sentence each."""

    def __post_init__(self) -> None:
        """Refuse extractors whose figures would have the same name.

        Raises:
            InputError: there are two.
        """
        keys = [extractor.key for extractor in self.extractors]
        if twice := next((extractor for extractor in self.extractors if keys.count(extractor.key) > 1), None):
            raise InputError(
                f"two extractors are called '{twice.name}', so their FID and KID would have the same name; give one"
                " of them another `name`"
            )


def find_judges(
    inception_weights: Path | None = None,
    lpips_weights: Path | None = None,
    extractors: Sequence[tuple[str, Path]] = (),
    preset: str = "default",
    device: str = "cpu",
) -> Judges:
    """Load every network whose weights are available. A file given by name must exist; one in the cache may be missing.

    Args:
        inception_weights: Inception's weight file; None uses torch's cache.
        lpips_weights: folder with LPIPS's files, as `perceptual` takes it.
        extractors: further networks, each as `module:attribute` and weight file.
        preset: a name in `PRESETS`, for the resize of Inception's input.
        device: where the networks run.

    Raises:
        InputError: an unknown preset, an entry that cannot be imported, or two extractors of the same name.
        MissingError, CheckpointError: a file given by name is missing or is something else.
    """
    found = Judges(tuple(extractor_from_entry(entry, weights, device) for entry, weights in extractors))
    try:
        plain = inception(inception_weights, preset_named(preset).resize, device)
        found = replace(found, extractors=(plain, *found.extractors))
    except MissingError:
        if inception_weights:
            raise
        place = cached_weights(INCEPTION_FILE).parent
        note = f"FID and KID: no Inception weights. Get {INCEPTION_SOURCE} into {place}, or name the file"
        found = replace(found, notes=(*found.notes, f"{note} with inception_weights."))
    for backbone, label in LABELS.items():
        try:
            found = replace(found, perceptuals=(*found.perceptuals, perceptual(backbone, lpips_weights, device)))
        except MissingError as error:
            found = replace(found, notes=(*found.notes, f"{label}: {error}."))
    if lpips_weights and not found.perceptuals:
        raise CheckpointError(f"{lpips_weights}: {found.notes[-1]}")
    return found


def preset_named(name: str) -> Preset:
    """The preset of this name.

    Raises:
        InputError: there is none.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset '{name}'; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
