"""Measure a folder of virtual images against a folder of real ones: every tile once, every figure with its protocol."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from restain.errors import InputError, ShapeError
from restain.image import atomic_path, image_size, list_images, load_image, to_tensor
from restain.metrics.interval import COVERAGE, DRAWS, bootstrap, interval
from restain.metrics.table import METRICS, Metric
from restain.stains import to_unit

BATCH_PX = 2**21
"""Pixels measured at a time, which bounds memory to about half a gigabyte; a larger image is measured alone."""
SEED = 0
"""Of the bootstrap."""


@dataclass(frozen=True)
class Figure:
    """One number about all tiles, with how sure it is and how it was made."""

    value: float
    low: float
    """Lower end of the bootstrap interval; not a number for a single tile."""
    high: float
    protocol: Mapping[str, str | float]
    """Everything that decides the value besides the pixels."""

    @property
    def fingerprint(self) -> str:
        """Eight letters that two figures share only if they were made in the same way."""
        words = json.dumps(dict(self.protocol), sort_keys=True, ensure_ascii=False)
        return blake2b(words.encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found."""

    virtual: Path
    real: Path
    names: tuple[str, ...]
    """Stems of the tiles, in order."""
    columns: Mapping[str, Tensor]
    """Values per tile by name, N each, in the order of `names`."""
    figures: Mapping[str, Figure]
    """By the names of `METRICS`."""

    def save(self, path: Path) -> None:
        """Write everything as JSON; what is not finite becomes null.

        Raises:
            OutputError: the file cannot be written; nothing is left behind.
        """
        figures = {
            name: {
                "label": METRICS[name].label,
                "unit": METRICS[name].unit,
                "higher_is_better": METRICS[name].higher_is_better,
                "value": _finite(figure.value),
                "interval": [_finite(figure.low), _finite(figure.high)],
                "fingerprint": figure.fingerprint,
                "protocol": dict(figure.protocol),
            }
            for name, figure in self.figures.items()
        }
        rows = zip(*(column.tolist() for column in self.columns.values()), strict=True)
        tiles = [
            {"name": name} | {column: _finite(value) for column, value in zip(self.columns, row, strict=True)}
            for name, row in zip(self.names, rows, strict=True)
        ]
        content = {
            "restain": version("restain"),
            "virtual": str(self.virtual),
            "real": str(self.real),
            "figures": figures,
            "tiles": tiles,
        }
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def evaluate(
    virtual: Path, real: Path, out: Path | None = None, on_progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Measure virtual images against the real ones of the same name.

    Args:
        virtual: folder of virtual images.
        real: folder of real images; each has the stem and the size of its partner, the format may differ.
        out: folder for `evaluation.json`, made where missing.
        on_progress: called after each batch with tiles done and tiles in all.

    Returns:
        The figures by the names of `METRICS`, and the values of each tile.

    Raises:
        MissingError: a folder does not exist.
        InputError: a folder is empty, a partner is missing, two partners differ in size, an image cannot be read or is
            too small for a metric.
        OutputError: `out` cannot be written.
    """
    virtual, real = Path(virtual), Path(real)
    tiles = pair_images(virtual, real)
    columns = _measure_all(tiles, on_progress)
    common = _common_protocol(tiles)
    figures = {name: _figure(name, metric, columns, common) for name, metric in METRICS.items()}
    found = Evaluation(virtual, real, tuple(tile.name for tile in tiles), columns, figures)
    if out is not None:
        found.save(Path(out) / "evaluation.json")
    return found


@dataclass(frozen=True)
class TilePair:
    """A virtual image and its real partner, not yet read."""

    name: str
    virtual: Path
    real: Path
    size: tuple[int, int]
    """Width and height of both, in px."""


def pair_images(virtual: Path, real: Path) -> list[TilePair]:
    """Find the pairs of two folders by stem, in order; check what shows without decoding. Errors as in `evaluate`."""
    virtual_images, real_images = _images_by_stem(virtual), _images_by_stem(real)
    _check_all_have_partners(virtual_images, real_images, virtual, real)
    _check_all_have_partners(real_images, virtual_images, real, virtual)
    return [_pair(name, path, real_images[name]) for name, path in virtual_images.items()]


def _check_all_have_partners(images: dict[str, Path], others: dict[str, Path], folder: Path, other: Path) -> None:
    if alone := [path.name for stem, path in images.items() if stem not in others]:
        raise InputError(f"{folder}: {_listed(alone)} without a partner of the same name in {other}")


def _pair(name: str, virtual: Path, real: Path) -> TilePair:
    size, real_size = image_size(virtual), image_size(real)
    if size != real_size:
        raise InputError(
            f"{virtual} has {_times(size)} px but {real} has {_times(real_size)} px; partners must have one size, so"
            " resize or crop one of them"
        )
    return TilePair(name, virtual, real, size)


def _images_by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(folder):
        if path.stem in found:
            raise InputError(
                f"{folder} holds {found[path.stem].name} and {path.name}; images are paired by name, keep one"
            )
        found[path.stem] = path
    if not found:
        raise InputError(f"{folder} holds no images; a folder of PNG, JPEG, TIFF, BMP or WebP files is expected")
    return found


def _measure_all(tiles: Sequence[TilePair], on_progress: Callable[[int, int], None] | None) -> dict[str, Tensor]:
    """Values per tile, float64 on the CPU, by column name; each image is decoded once."""
    measures = {metric.measure: metric.columns for metric in METRICS.values()}
    found: dict[str, list[Tensor]] = {column: [] for columns in measures.values() for column in columns}
    done = 0
    for batch in _batches(tiles):
        virtual, real = _load([tile.virtual for tile in batch]), _load([tile.real for tile in batch])
        for measure, columns in measures.items():
            try:
                values = measure(virtual, real).double().reshape(len(batch), -1)
            except ShapeError as error:
                raise InputError(f"{batch[0].virtual}: {error}") from error
            for column, value in zip(columns, values.unbind(1), strict=True):
                found[column].append(value)
        done += len(batch)
        if on_progress:
            on_progress(done, len(tiles))
    return {column: torch.cat(values) for column, values in found.items()}


def _batches(tiles: Sequence[TilePair]) -> Iterator[list[TilePair]]:
    """Neighbours of one size, as many as `BATCH_PX` allows."""
    batch: list[TilePair] = []
    for tile in tiles:
        full = (len(batch) + 1) * math.prod(tile.size) > BATCH_PX
        if batch and (full or tile.size != batch[0].size):
            yield batch
            batch = []
        batch.append(tile)
    yield batch


def _load(paths: Sequence[Path]) -> Tensor:
    return to_unit(to_tensor(np.stack([load_image(path) for path in paths])))


def _common_protocol(tiles: Sequence[TilePair]) -> dict[str, str | float]:
    sizes = sorted({tile.size for tile in tiles})
    formats = ["/".join(sorted({path.suffix.lower()[1:] for path in paths})) for paths in _sides(tiles)]
    return {
        "size": f"{_times(sizes[0])} px" if len(sizes) == 1 else f"{_times(sizes[0])} to {_times(sizes[-1])} px",
        "resize": "none",
        "format": " against ".join(formats),
        "tiles": len(tiles),
        "interval": f"{COVERAGE:.0%} bootstrap over tiles, {DRAWS} draws, seed {SEED}",
    }


def _sides(tiles: Sequence[TilePair]) -> tuple[list[Path], list[Path]]:
    return [tile.virtual for tile in tiles], [tile.real for tile in tiles]


def _figure(name: str, metric: Metric, columns: Mapping[str, Tensor], common: Mapping[str, str | float]) -> Figure:
    values = [columns[column] for column in metric.columns]
    single = len(values[0]) == 1
    low, high = (math.nan, math.nan) if single else interval(bootstrap(metric.figure, values, DRAWS, SEED))
    return Figure(metric.figure(*values).item(), low, high, {"metric": name, **metric.protocol, **common})


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _listed(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
