"""Where the statistics of instance norm come from: tiles spread over a slide, or a file that another slide left."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from restain.errors import InputError, MissingError
from restain.image import atomic_path
from restain.networks.norm import Moments, NormStatistics
from restain.randomness import generator
from restain.slides.tiling import Box

_FORMAT = "1"
_FORMAT_KEY, _MODEL_KEY = "restain_statistics", "model"


def choose(boxes: Sequence[Box], count: int, seed: int = 0) -> list[Box]:
    """Draw boxes that are spread evenly over where there are any.

    They are put in an order in which neighbours stay together (Morton's curve) and cut into `count` equal runs; one of
    each run is drawn.

    Args:
        boxes: candidates, such as the tiles with tissue.
        count: how many; all, where there are not more.
        seed: the same seed draws the same boxes.
    """
    if len(boxes) <= count:
        return list(boxes)
    ordered = sorted(boxes, key=lambda box: (_morton(box.x, box.y), box.x, box.y))
    random = generator(seed, "statistics")
    edges = [len(ordered) * index // count for index in range(count + 1)]
    return [ordered[int(torch.randint(start, stop, (), generator=random))] for start, stop in pairwise(edges)]


def _morton(x: int, y: int) -> int:
    """The bits of both coordinates in turn."""
    return sum(((x >> bit & 1) | (y >> bit & 1) << 1) << 2 * bit for bit in range(32))


def save_statistics(path: Path, statistics: NormStatistics, *, model: str) -> None:
    """Write statistics to a safetensors file.

    Args:
        path: the file, usually `*.safetensors`; an existing one is replaced.
        statistics: from `joint_statistics`.
        model: the sha256 of the checkpoint's weights, as `CheckpointInfo` has it.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {}
    for name, moments in statistics.items():
        tensors[f"{name}.mean"] = moments.mean.cpu().contiguous()
        tensors[f"{name}.variance"] = moments.variance.cpu().contiguous()
    contents = safetensors.torch.save(tensors, {_FORMAT_KEY: _FORMAT, _MODEL_KEY: model})
    with atomic_path(path) as temporary:
        temporary.write_bytes(contents)


def load_statistics(path: Path, *, model: str | None = None) -> dict[str, Moments]:
    """Read statistics.

    Args:
        path: a file that `save_statistics` wrote.
        model: the sha256 of the checkpoint they are meant for; not checked if not given.

    Raises:
        MissingError: there is no such file.
        InputError: it is damaged or something else, or was made with another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist; a file of statistics (*.safetensors) is expected") from error
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a file of statistics, or cut short ({error}); make it again") from error
    if header.get(_FORMAT_KEY) != _FORMAT:
        raise InputError(f"{path} holds no statistics that this restain can read; make it with --save-statistics")
    if model is not None and header[_MODEL_KEY] != model:
        raise InputError(
            f"{path} was made with another model (weights {header[_MODEL_KEY][:12]}, these are {model[:12]}); "
            "statistics serve only the model that they were made with"
        )
    names = [name.removesuffix(".mean") for name in tensors if name.endswith(".mean")]
    return {name: Moments(tensors[f"{name}.mean"], tensors[f"{name}.variance"]) for name in names}
