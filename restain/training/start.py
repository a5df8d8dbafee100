"""Starts a training from the weights of a checkpoint that fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor, nn

from restain.checkpoint import read_info, read_weights
from restain.errors import CheckpointError, OutputError
from restain.methods.base import Method
from restain.training.state import Saved


@dataclass(frozen=True)
class Taken:
    """Which tensors of a checkpoint were copied to a network."""

    source: Path
    taken: Sequence[str]
    other_shape: Mapping[str, tuple[Sequence[int], Sequence[int]]]
    """Shape in the checkpoint and in the network."""
    lacking: Sequence[str]
    """Names only in the network; these weights stay random."""
    surplus: Sequence[str]
    """Names only in the checkpoint."""
    start: Mapping[str, str]
    """For the header of a checkpoint."""

    def describe(self) -> str:
        """The tensors that were not copied, and why."""
        total = len(self.taken) + len(self.other_shape) + len(self.lacking)
        words = [f"{self.source}: {len(self.taken)} of {total} tensors are copied"]
        shapes = [
            f"{name} ({_times(there)} there, {_times(here)} here)" for name, (there, here) in self.other_shape.items()
        ]
        for reason, names in (
            ("of another shape, so initialised at random", shapes),
            ("not in the checkpoint, so initialised at random", self.lacking),
            ("only in the checkpoint, so ignored", self.surplus),
        ):
            if names:
                words.append(f"{reason}: {', '.join(names)}")
        return "; ".join(words)


@torch.no_grad()
def start_from(network: nn.Module, source: Path) -> Taken:
    """Copy every tensor of a checkpoint with the same name and shape to a network.

    Args:
        network: the network to train; any network, not just that of the checkpoint.
        source: the checkpoint.

    Raises:
        MissingError, CheckpointError: it cannot be read, or no tensor fits.
    """
    info, weights = read_weights(source)
    here = network.state_dict()
    taken = [name for name, tensor in here.items() if name in weights and weights[name].shape == tensor.shape]
    result = Taken(
        source,
        taken,
        {
            name: (weights[name].shape, tensor.shape)
            for name, tensor in here.items()
            if name in weights and weights[name].shape != tensor.shape
        },
        [name for name in here if name not in weights],
        [name for name in weights if name not in here],
        {
            "file": source.name,
            "sha256": info.sha256,
            "method": info.method,
            "tensors": f"{len(taken)} of {len(here)}",
        },
    )
    if not taken:
        raise CheckpointError(
            f"{source} holds the {info.kind} of '{info.method}' ({_settings(info.network)}), and none of its tensors "
            f"has the name and shape of one in this {type(network).__name__}; "
            "give another checkpoint, or settings that fit it"
        )
    for name in taken:
        tensor: Tensor = here[name]
        tensor.copy_(weights[name])
    return result


def begun(method: Method, source: Path | None, steps: int, console: Console | None) -> Saved:
    """The state of a run before its first step, with its product started from a checkpoint, if any.

    Raises:
        MissingError, CheckpointError: as in `start_from`.
    """
    if source is None:
        return Saved(0, steps)
    taken = start_from(method.product(), source)
    if console:
        console.print(taken.describe(), soft_wrap=True, highlight=False, markup=False)
    return Saved(0, steps, start=taken.start)


def check_start(out: Path, saved: Saved, source: Path | None) -> None:
    """Check that a resumed run was started from the same checkpoint; the file may be missing.

    Raises:
        OutputError: it was started from another one, or from random weights.
    """
    if source is None:
        return
    if not saved.start:
        raise OutputError(f"{out} is a run that did not start from weights; give another folder to start from {source}")
    name, digest = saved.start.get("file"), saved.start.get("sha256")
    same = read_info(source).sha256 == digest if source.exists() else source.name == name
    if not same:
        raise OutputError(f"{out} is a run that started from {name}, not from {source}; give another folder")


def _settings(network: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in network.items())


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "one number"
