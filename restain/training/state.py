"""What a run needs to go on after being killed: weights, optimisers and the number of steps done."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from restain.checkpoint import misfit
from restain.errors import CheckpointError, NonFiniteLossError
from restain.image import atomic_path


def save_state(path: Path, method: nn.Module, optimizers: Mapping[str, Optimizer], steps_done: int) -> None:
    """Write the state in one piece: after a kill or a full disk, the file holds the old state or the new one.

    Raises:
        OutputError: it could not be written; the old state is still there.
    """
    state = {
        "steps_done": steps_done,
        "method": method.state_dict(),
        "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a failed write
            raise OSError("writing failed, perhaps because the disk is full") from error


def load_state(path: Path, method: nn.Module, optimizers: Mapping[str, Optimizer]) -> int:
    """Put weights and optimisers back, if there is a state.

    Returns:
        Steps done; 0 where there is no state yet.

    Raises:
        CheckpointError: the file is damaged or of another method.
    """
    if not path.is_file():
        return 0
    with _refusing(path, _RESUME):
        state = torch.load(path, map_location="cpu", weights_only=True)
        _put_back(state["method"], method)
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        return int(state["steps_done"])


def load_weights(path: Path, method: nn.Module) -> None:
    """Put only the weights of a saved state back.

    Raises:
        CheckpointError: the file is damaged or of another method.
    """
    with _refusing(path, _LOOK):
        _put_back(torch.load(path, map_location="cpu", weights_only=True)["method"], method)


def steps_done(path: Path) -> int:
    """Only the number of steps done, 0 where there is no state yet; the tensors stay on the disk.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.is_file():
        return 0
    with _refusing(path, _RESUME):
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["steps_done"])


def _put_back(weights: Mapping[str, Tensor], method: nn.Module) -> None:
    if differences := misfit(method, weights):
        raise CheckpointError(f"its weights are those of another version of the method: {differences}")
    method.load_state_dict(weights)


_RESUME = "cannot be resumed from", "remove it to start this run again"
_LOOK = (
    "cannot be read into the method of its recipe",
    "copy the run's folder again, or train it again into another one",
)


@contextmanager
def _refusing(path: Path, words: tuple[str, str]) -> Iterator[None]:
    """Turn whatever a damaged or foreign file makes torch raise, and that is nearly anything, into a sentence."""
    try:
        yield
    except Exception as error:
        known = isinstance(error, CheckpointError)
        reason = str(error) if known else f"{type(error).__name__}: {error}".splitlines()[0]
        what, way_out = words
        raise CheckpointError(f"{path} {what} ({reason}); {way_out}") from error


def check_finite(weights: Mapping[str, Tensor], steps_done: int, saved: int) -> None:
    """Check what is about to be saved: a bad gradient shows in the weights before it does in a loss.

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
    """The error for training that has gone astray, with the way back."""
    state = f"the last good state and checkpoint are those of step {saved}" if saved else "no state was saved before"
    return NonFiniteLossError(f"{what}; {state}. Try a lower learning rate, or --set training.precision=float32")
