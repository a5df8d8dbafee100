"""The state of a run for resuming: weights, optimisers, steps done, and how it was started.

The file is hashed, because PyTorch does not detect flipped bits.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from restain.checkpoint import misfit
from restain.errors import CheckpointError, NonFiniteLossError
from restain.image import atomic_path

Pending = tuple[tuple[int, Mapping[str, float]], ...]
"""Losses not yet in the log: the step and its losses by term."""


@dataclass(frozen=True)
class Saved:
    """The header of a state."""

    done: int = 0
    """Steps done."""
    steps: int = 0
    """Length of the training, steps."""
    lengthened: tuple[int, ...] = ()
    """Earlier lengths of a run that was lengthened."""
    start: Mapping[str, str] = field(default_factory=dict)
    """The checkpoint whose weights it started from; empty if it started from random weights."""
    pending: Pending = ()
    """Losses since the last line of the log, if the run was stopped between two."""

    @property
    def finished(self) -> bool:
        """Whether the training is over."""
        return self.done == self.steps

    def at(self, done: int, steps: int, pending: Pending = ()) -> "Saved":
        """The header after so many steps of a training of such a length."""
        longer = self.finished and 0 < self.steps < steps
        return Saved(done, steps, (*self.lengthened, self.steps) if longer else self.lengthened, self.start, pending)

    @property
    def provenance(self) -> dict[str, Any]:
        """For the header of a checkpoint; only what applies."""
        lengthened = {"lengthened_at": list(self.lengthened)} if self.lengthened else {}
        return {"steps": self.done} | lengthened | ({"started_from": dict(self.start)} if self.start else {})


def save_state(path: Path, method: nn.Module, optimizers: Mapping[str, Optimizer], saved: Saved) -> None:
    """Write the state atomically: after a kill or a full disk, the file is the old state or the new one.

    Raises:
        OutputError: it could not be written; the old state is kept.
    """
    state = {
        "steps_done": saved.done,
        "steps": saved.steps,
        "lengthened": list(saved.lengthened),
        "start": dict(saved.start),
        "pending": [[step, dict(losses)] for step, losses in saved.pending],
        "method": dict(method.state_dict()),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
    }
    state["sha256"] = _digest(state)
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's error for a failed write
            raise OSError("writing failed, perhaps because the disk is full") from error


def load_state(path: Path, method: nn.Module, optimizers: Mapping[str, Optimizer]) -> Saved | None:
    """Restore weights and optimisers, if there is a state.

    Returns:
        The header of the state; None if there is no state yet.

    Raises:
        CheckpointError: the file is damaged or of another method.
    """
    if not path.is_file():
        return None
    with _refusing(path, _RESUME):
        state = _checked(path)
        _put_back(state["method"], method)
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        return _saved(state)


def load_method_weights(path: Path, method: nn.Module) -> None:
    """Restore only the weights of a saved state.

    Raises:
        CheckpointError: the file is damaged or of another method.
    """
    with _refusing(path, _LOOK):
        _put_back(_checked(path)["method"], method)


def read_saved(path: Path) -> Saved:
    """Read only the header of a state, without its tensors.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.is_file():
        return Saved()
    with _refusing(path, _RESUME):
        return _saved(torch.load(path, map_location="cpu", weights_only=True, mmap=True))


def steps_done(path: Path) -> int:
    """Read only the number of steps done, 0 if there is no state yet.

    Raises:
        CheckpointError: the file is damaged.
    """
    return read_saved(path).done


def _saved(state: Mapping[str, Any]) -> Saved:
    start = {str(key): str(value) for key, value in state["start"].items()}
    pending = tuple(
        (int(step), {str(term): float(loss) for term, loss in terms.items()}) for step, terms in state["pending"]
    )
    lengthened = tuple(map(int, state["lengthened"]))
    return Saved(int(state["steps_done"]), int(state["steps"]), lengthened, start, pending)


def _checked(path: Path) -> dict[str, Any]:
    """Read and verify the state; no code of the file is run.

    Raises:
        ValueError: its hash differs.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state.pop("sha256", None) != _digest(state):
        raise ValueError("its contents differ from what was saved")
    return state


def _digest(value: Any) -> str:
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """Bytes that identify a nested value.

    Raises:
        ValueError: a tensor is larger than its storage.
    """
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError("a tensor is larger than its storage")
        yield f"tensor {tensor.dtype} {tuple(tensor.shape)};".encode()
        yield tensor.contiguous().flatten().view(torch.uint8).numpy().data
    elif isinstance(value, Mapping):
        yield f"dict {len(value)};".encode()
        for key, inner in value.items():
            yield from _parts(key)
            yield from _parts(inner)
    elif isinstance(value, list | tuple):
        yield f"list {len(value)};".encode()
        for inner in value:
            yield from _parts(inner)
    else:
        yield f"{type(value).__name__} {value!r};".encode()


def _put_back(weights: Mapping[str, Tensor], method: nn.Module) -> None:
    if differences := misfit(method, weights):
        raise CheckpointError(f"its weights belong to another version of the method: {differences}")
    method.load_state_dict(weights)


_RESUME = "cannot be resumed from", "remove it to start this run again"
_LOOK = (
    "cannot be read into the method of its recipe",
    "copy the run's folder again, or train again in another one",
)


@contextmanager
def _refusing(path: Path, words: tuple[str, str]) -> Iterator[None]:
    """Raise any exception of torch on a damaged or foreign file as a restain error."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, CheckpointError)
        reason = str(error) if known else f"{type(error).__name__}: {error}".splitlines()[0]
        what, way_out = words
        raise CheckpointError(f"{path} {what} ({reason}); {way_out}") from error


def check_finite(weights: Mapping[str, Tensor], steps_done: int, saved: int) -> None:
    """Check weights before they are saved: a bad gradient affects the weights before a loss.

    Args:
        weights: a method's state dict.
        steps_done: steps that led to them.
        saved: steps done in the state that was saved last, for the message.

    Raises:
        NonFiniteLossError: names the first tensor that is not finite.
    """
    named = [(name, tensor) for name, tensor in weights.items() if tensor.is_floating_point()]
    finite = torch.stack([tensor.isfinite().all() for _, tensor in named]).tolist()
    for (name, _), good in zip(named, finite, strict=True):
        if not good:
            raise astray(f"after step {steps_done} the weights {name} are not finite", saved)


def astray(what: str, saved: int) -> NonFiniteLossError:
    """The error for training that diverged, with the way back."""
    state = f"the last valid state and checkpoint are those of step {saved}" if saved else "no state was saved before"
    return NonFiniteLossError(f"{what}; {state}. Try a lower learning rate, or training.precision=float32")
