"""Measure a folder of virtual images against a folder of real ones: every tile once, every figure with its protocol."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from restain.errors import InputError, ShapeError
from restain.image import atomic_path, make_folder
from restain.metrics.colours import by_vectors
from restain.metrics.features import FeatureMatrix
from restain.metrics.figure import Figure, finite
from restain.metrics.judges import Judges, Preset, preset_named
from restain.metrics.perceptual import LABELS
from restain.metrics.registry import METRICS, Metric
from restain.metrics.summary import SMALLEST_SET, Sampling, set_figures, tile_figure
from restain.metrics.tiles import PARTNERS, TilePair, pair_images, read_batches, tile_protocol, times
from restain.workers.memory import steady_memory


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`."""

    virtual: Path
    real: Path
    tiles: Sequence[TilePair]
    """The tiles, in order."""
    columns: Mapping[str, Tensor]
    """Values per tile by name, N each, in the order of `tiles`."""
    figures: Mapping[str, Figure]
    """By name: those of `METRICS`, of LPIPS, and FID and KID of each extractor."""
    notes: tuple[str, ...] = ()
    """What was left out and why, one sentence each."""
    he: Path | None = None
    stain_vectors: Tensor | None = None
    """Stain vectors used for the IHC images; None for the reference."""

    @property
    def names(self) -> tuple[str, ...]:
        """Stems of the tiles, in order."""
        return tuple(tile.name for tile in self.tiles)

    def save(self, path: Path) -> None:
        """Write everything as JSON; values that are not finite become null.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
        """
        rows = zip(*(column.tolist() for column in self.columns.values()), strict=True)
        tiles = [
            {"name": name} | {column: finite(value) for column, value in zip(self.columns, row, strict=True)}
            for name, row in zip(self.names, rows, strict=True)
        ]
        content = {
            "restain": version("restain"),
            "virtual": str(self.virtual),
            "real": str(self.real),
            "figures": {name: figure.as_json() for name, figure in self.figures.items()},
            "left out": list(self.notes),
            "tiles": tiles,
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def evaluate(
    virtual: Path,
    real: Path,
    out: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    he: Path | None = None,
    judges: Judges | None = None,
    preset: str = "default",
    cases: Callable[[str], str] | None = None,
    extra: Mapping[str, Metric] | None = None,
    stain_vectors: Tensor | None = None,
    tiles: Sequence[TilePair] | None = None,
) -> Evaluation:
    """Measure virtual images against the real ones of the same name.

    Args:
        virtual: folder of virtual images.
        real: folder of real images; each has the stem and the size of its partner, the format may differ.
        out: folder for `evaluation.json`, made where missing.
        on_progress: called after each batch with tiles done and tiles in all.
        he: folder of the H&E images that the virtual ones were made from, for the figures that need them.
        judges: networks for FID, KID and LPIPS, as `find_judges` loads them; None leaves these figures out.
        preset: how FID and KID are computed, a name in `PRESETS`.
        cases: from the stem of a tile to its case (a patient, a slide); intervals are then drawn over cases.
        extra: further metrics by name, such as `nuclei_metrics`.
        stain_vectors: of the IHC images, 3 x 3, as from `stain_vectors_of`; None takes Ruifrok & Johnston's.
        tiles: the pairs of these folders, if `pair_images` was called before.

    Returns:
        The figures by name, and the values of each tile.

    Raises:
        MissingError: a folder does not exist.
        InputError: a folder is empty, a partner is missing, two partners differ in size, an image cannot be read, or
            the preset does not fit the tiles.
        OutputError: `out` cannot be written.
    """
    virtual, real = Path(virtual), Path(real)
    judges = judges or Judges()
    tiles = tiles or pair_images(virtual, real, he)
    habit = preset_named(preset)
    _check_fits(habit, preset, tiles)
    metrics, left_out = _usable({**METRICS, **_perceptual_metrics(judges), **(extra or {})}, tiles)
    if stain_vectors is not None:
        metrics = by_vectors(metrics, stain_vectors)
    if out is not None:
        make_folder(Path(out))
    with steady_memory():
        columns, features = _measure_all(tiles, metrics, judges, on_progress)
    sampling = Sampling(len(tiles), tuple(cases(tile.name) for tile in tiles) if cases else None)
    partners = [partner for partner in PARTNERS if partner == "real" or he]
    common = {partner: {**tile_protocol(tiles, partner), "interval": sampling.words} for partner in partners}
    figures = {
        name: tile_figure(name, metric, columns, sampling, common[metric.partner]) for name, metric in metrics.items()
    }
    notes = [*left_out, *judges.notes, *_without_value(metrics, columns)]
    if judges.extractors and len(tiles) < SMALLEST_SET:
        notes.append(f"FID and KID: need at least {SMALLEST_SET} tiles, and N = {len(tiles)}.")
    else:
        for extractor, (virtual_rows, real_rows) in zip(judges.extractors, features, strict=True):
            figures |= set_figures(extractor, virtual_rows, real_rows, habit, sampling, common["real"])
    found = Evaluation(virtual, real, tiles, columns, figures, tuple(notes), he, stain_vectors)
    if out is not None:
        found.save(Path(out) / "evaluation.json")
    return found


def _check_fits(preset: Preset, name: str, tiles: Sequence[TilePair]) -> None:
    side = preset.side_px
    if side and (other := next((tile for tile in tiles if tile.size != (side, side)), None)):
        raise InputError(
            f"the preset {name} needs tiles of {times((side, side))} px, but {other.virtual} has {times(other.size)};"
            " leave the preset out"
        )
    if preset.subset_size and len(tiles) < preset.subset_size:
        raise InputError(
            f"the preset {name} needs subsets of {preset.subset_size} tiles for KID, but there are {len(tiles)} tiles;"
            " leave the preset out"
        )


def _perceptual_metrics(judges: Judges) -> dict[str, Metric]:
    return {
        f"lpips_{judge.backbone}": Metric(
            LABELS[judge.backbone],
            judge.measure,
            (f"lpips_{judge.backbone}",),
            higher_is_better=False,
            protocol={"version": "0.1", "weights": judge.weights},
            smallest_px=64,
        )
        for judge in judges.perceptuals
    }


def _usable(metrics: Mapping[str, Metric], tiles: Sequence[TilePair]) -> tuple[dict[str, Metric], list[str]]:
    """The metrics that these tiles allow, and a note on each of the others."""
    shortest = min(min(tile.size) for tile in tiles)
    usable, notes = {}, []
    for name, metric in metrics.items():
        if metric.smallest_px > shortest:
            notes.append(
                f"{metric.label}: needs sides of at least {metric.smallest_px} px; the shortest is {shortest} px."
            )
        elif metric.partner == "he" and tiles[0].he is None:
            notes.append(f"{metric.label}: needs the H&E images (he).")
        else:
            usable[name] = metric
    return usable, notes


def _without_value(metrics: Mapping[str, Metric], columns: Mapping[str, Tensor]) -> Iterator[str]:
    """A note for each measurement that is undefined on some tiles, such as a score without cells."""
    for measure in dict.fromkeys(metric.measure for metric in metrics.values()):
        members = [metric for metric in metrics.values() if metric.measure is measure]
        unknown = torch.stack([columns[column] for column in members[0].columns]).isnan().any(0)
        if unknown.any():
            labels = ", ".join(dict.fromkeys(metric.label.partition(", ")[0] for metric in members))
            yield f"{labels}: undefined on {int(unknown.sum())} of {len(unknown)} tiles."


def _measure_all(
    tiles: Sequence[TilePair],
    metrics: Mapping[str, Metric],
    judges: Judges,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
    """Values per tile, float64 by column name, and (virtual, real) features of each extractor; images decoded once."""
    measures = {metric.measure: metric for metric in metrics.values()}
    found: dict[str, list[Tensor]] = {column: [] for metric in measures.values() for column in metric.columns}
    features = [(FeatureMatrix(len(tiles)), FeatureMatrix(len(tiles))) for _ in judges.extractors]
    done = 0
    for batch in read_batches(tiles):
        for measure, metric in measures.items():
            partner = batch.he if metric.partner == "he" and batch.he is not None else batch.real
            try:
                values = measure(batch.virtual, partner).double().reshape(len(batch.tiles), -1)
            except ShapeError as error:
                raise InputError(f"{batch.tiles[0].virtual}: {error}") from error
            for column, value in zip(metric.columns, values.unbind(1), strict=True):
                found[column].append(value)
        for extractor, (virtual, real) in zip(judges.extractors, features, strict=True):
            virtual.add(extractor(batch.virtual))
            real.add(extractor(batch.real))
        done += len(batch.tiles)
        if on_progress:
            on_progress(done, len(tiles))
    columns = {column: torch.cat(values) for column, values in found.items()}
    return columns, [(virtual.rows, real.rows) for virtual, real in features]
