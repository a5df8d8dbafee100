"""Statistics of instance norm: from tiles spread over a slide, or from a file."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from restain import randomness
from restain.checkpoint import fingerprint
from restain.errors import InputError, MissingError
from restain.image import RGB, atomic_path, to_tensor
from restain.networks.generator import Generator
from restain.networks.norm import Moments, NormStatistics, OnStep, instance_norms, joint_statistics
from restain.networks.stainer import Stainer
from restain.slides.tiling import Box, Tile

SAMPLE_TILES = 32
SAMPLE_PX = 256
"""Side of a core for statistics. 32 such tiles with their margin take 0.7 GB at width 64."""
_MARGIN_PX = 32
"""Margin around the core of a sampled tile. It is less than the receptive radius; that changes features near the edges
of the core only, and the result less than the choice of tiles does."""

_FORMAT = 2
_KEY = "restain_statistics"
"""The only word of the header, as safetensors writes several in an order of chance; JSON with format, model, sha256
and, beside a slide, the job."""


def sample_statistics(
    generator: Stainer,
    tiles: Sequence[Tile],
    read: Callable[[Box], RGB],
    *,
    count: int = SAMPLE_TILES,
    seed: int = 0,
    on_progress: OnStep | None = None,
) -> dict[str, Moments]:
    """Joint statistics of instance norm over a sample of tiles; see `joint_statistics` for what they are.

    With all tiles of an image and the generator's receptive radius as halo they equal those of the whole image.

    Args:
        generator: not changed.
        tiles: candidates, such as those with tissue. What counts is the core; the window keeps padding away from it.
        read: the pixels of a window, H x W x 3 uint8, all windows may differ in size.
        count: number of tiles of a large image, see `enough`; all, if there are not more.
        seed: of the choice of tiles.
        on_progress: as in `joint_statistics`.

    Returns:
        Moments by the name of the layer; none for a generator without instance norm.

    Raises:
        ShapeError: there are no tiles.
    """
    if not isinstance(generator, Generator) or not instance_norms(generator):
        return {}
    chosen = sample(tiles, generator.multiple, count, seed)
    windows = [to_tensor(read(tile.window)) for tile in chosen]
    return joint_statistics(
        generator, windows, [tile.core.within(tile.window).slices for tile in chosen], on_progress=on_progress
    )


def sample(tiles: Sequence[Tile], multiple: int, count: int = SAMPLE_TILES, seed: int = 0) -> list[Tile]:
    """Choose tiles to take statistics from; where there are more than that, with a smaller margin around their core.

    Args:
        tiles: candidates.
        multiple: of the generator; windows keep to it.
        count: how many of a large image, see `enough`; all, where there are not more.
        seed: as in `choose`.
    """
    if len(tiles) <= count:
        return list(tiles)
    return [_narrowed(tile, multiple) for tile in choose(tiles, enough(len(tiles), count), seed)]


def enough(tiles: int, count: int) -> int:
    """How many of so many tiles tell as much about all of them as `count` do about the tiles of a large image.

    The mean of n values out of N, drawn without replacement, has the variance s² (1/n - 1/N), of very many s² / count.
    """
    return math.ceil(tiles * count / (tiles + count))


def _narrowed(tile: Tile, multiple: int) -> Tile:
    """The same core in a window with a smaller margin."""
    core, window = tile.core, tile.window
    x, width = _narrowed_side(core.x, core.width, window.x, window.width, multiple)
    y, height = _narrowed_side(core.y, core.height, window.y, window.height, multiple)
    return Tile(core, Box(x, y, width, height))


def _narrowed_side(core: int, length: int, window: int, window_length: int, multiple: int) -> tuple[int, int]:
    start = max(window, (core - _MARGIN_PX) // multiple * multiple)
    end = min(window + window_length, -(-(core + length + _MARGIN_PX) // multiple) * multiple)
    return start, end - start


def choose(tiles: Sequence[Tile], count: int, seed: int = 0) -> list[Tile]:
    """Draw tiles evenly spread over all tiles.

    They are sorted along Morton's curve, where neighbours stay together, and split into `count` equal runs; one of each
    run is drawn. With `count` or fewer, all are taken.
    """
    if len(tiles) <= count:
        return list(tiles)
    ordered = sorted(tiles, key=lambda tile: _morton(tile.core.x, tile.core.y))
    draws = torch.rand(count, generator=randomness.generator(seed, "statistics"), dtype=torch.float64)
    return [ordered[int((run + draw) * len(ordered) / count)] for run, draw in enumerate(draws.tolist())]


def _morton(x: int, y: int) -> int:
    """The bits of both coordinates in turn."""
    return sum(((x >> bit & 1) | (y >> bit & 1) << 1) << 2 * bit for bit in range(32))


def serialised(statistics: NormStatistics, model: str = "", job: str = "") -> bytes:
    """Statistics as the bytes of a safetensors file, the same for the same statistics.

    Args:
        statistics: from `joint_statistics`.
        model: as in `save_statistics`.
        job: likewise.
    """
    tensors = {}
    for name, moments in statistics.items():
        tensors[f"{name}.mean"] = moments.mean.cpu().contiguous()
        tensors[f"{name}.variance"] = moments.variance.cpu().contiguous()
    header = {"format": _FORMAT, "model": model, "sha256": fingerprint(tensors)} | ({"job": job} if job else {})
    return safetensors.torch.save(tensors, {_KEY: json.dumps(header)})


def save_statistics(path: Path, statistics: NormStatistics, *, model: str = "", job: str = "") -> None:
    """Write statistics to a safetensors file.

    Args:
        path: the file, usually `*.safetensors`; an existing one is replaced.
        statistics: from `joint_statistics`.
        model: the sha256 of the checkpoint's weights, as in `CheckpointInfo`, if known.
        job: of the slide's result, if they are of one slide.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(serialised(statistics, model, job))


def read_statistics(path: Path) -> tuple[dict[str, Moments], str]:
    """Read statistics, and the sha256 of the weights that they belong to, empty if unknown.

    Raises:
        MissingError: there is no such file.
        InputError: it is damaged, or not a file of statistics.
    """
    return _read(path)[:2]


def _read(path: Path) -> tuple[dict[str, Moments], str, str]:
    """Statistics, and the model and job that their header names."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a plain file; a file of statistics (*.safetensors) is expected")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_KEY, "")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist; a file of statistics (*.safetensors) is expected") from error
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a file of statistics, or cut short ({error}); make it again") from error
    model, digest, job = _header(path, header)
    if digest != fingerprint(tensors):
        raise InputError(f"{path} is damaged: its numbers differ from those that were saved; make it again")
    names = [name.removesuffix(".mean") for name in tensors if name.endswith(".mean")]
    if tensors.keys() != {f"{name}.{moment}" for name in names for moment in ("mean", "variance")}:
        raise InputError(f"{path} does not have a mean and a variance for each layer; make it again")
    statistics = {name: Moments(tensors[f"{name}.mean"], tensors[f"{name}.variance"]) for name in names}
    for name, moments in statistics.items():
        usable = moments.mean.isfinite().all() and moments.variance.isfinite().all() and (moments.variance >= 0).all()
        if not usable or moments.mean.shape != moments.variance.shape:
            raise InputError(f"{path}: {name} has no finite mean and variance of at least 0; make it again")
    return statistics, model, job


def _header(path: Path, text: str) -> tuple[str, str, str]:
    """The model, the hash and the job that a header names."""
    try:
        header = json.loads(text)
        if header["format"] == _FORMAT:
            return str(header["model"]), str(header["sha256"]), str(header.get("job", ""))
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise InputError(
        f"{path} holds no statistics that this restain can read; give the .statistics.safetensors of a result that it "
        "has made"
    )


def load_statistics(path: Path, *, model: str = "", job: str = "") -> dict[str, Moments]:
    """Read the statistics of a model.

    Args:
        path: a file that `save_statistics` wrote.
        model: the sha256 of the checkpoint that they are for; not checked if either is unknown.
        job: the result that they are of; likewise.

    Raises:
        MissingError, InputError: as in `read_statistics`; or they are of another model or another result.
    """
    statistics, made_with, of = _read(path)
    check_model(path, made_with, model)
    if job and of and of != job:
        raise InputError(f"{path} belongs to another result; make it again")
    return statistics


def check_model(name: object, made_with: str, model: str) -> None:
    """Check that statistics belong to a model, by the sha256 of its weights; not checked if either is unknown.

    Raises:
        InputError: they belong to another one.
    """
    if model and made_with and made_with != model:
        raise InputError(
            f"{name} was made with another model (its weights begin with {made_with[:12]}, those given with "
            f"{model[:12]}); statistics serve only the model that they were made with"
        )
