"""Reads the tensors of a PyTorch weight file (*.pth), in any of the usual wrappers; runs no code from the file."""

import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from restain.errors import CheckpointError, MissingError

State = dict[str, Tensor]

_WRAPPERS = (
    "state_dict", "model_state_dict", "netG", "net_G", "generator", "params_ema", "params", "G", "model", "net", "ema",
)  # fmt: skip
"""Names under which training scripts keep the weights of a generator, in the order in which they are tried."""
_PREFIXES = ("module.", "_orig_mod.", *(f"{wrapper}." for wrapper in _WRAPPERS if wrapper != "model"))
_KNOWN = re.compile(r"model\.\d+\.conv_block\.|model\.model\.1\.model\.")
"""Prefixes of names in the known layouts, a ResNet's or a U-Net's."""


def read_state(source: Path, key: str | None = None) -> State:
    """Read the state dict of a file, without the prefixes that wrappers add to its names.

    Args:
        source: the file.
        key: where in it the weights are: a name, names with dots for dicts inside one another, or what the names of the
            tensors begin with. Without it, the usual places are tried.

    Raises:
        MissingError: there is no such file.
        CheckpointError: it is something else, has nothing under `key`, or has several candidates.
    """
    found = _read(source)
    state = _tensors(source, _innermost(source, found if key is None else _under(source, found, key)))
    while prefix := next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in state)), None):
        state = _without(prefix, state)
    while any(_KNOWN.match(name.removeprefix("model.")) for name in state if name.startswith("model.model.")):
        inner = _without("model.", state)
        if not any(_KNOWN.match(name) for name in inner):
            break
        state = inner
    return {name: tensor for name, tensor in state.items() if not _is_unused(name, state)}


def first(names: Sequence[str], count: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _read(source: Path) -> Any:
    if source.exists() and not source.is_file() and not source.is_dir():
        raise CheckpointError(f"{source} is not a regular file; a PyTorch weight file (*.pth) is expected")
    try:
        with warnings.catch_warnings(action="ignore"):  # replaced by the messages below
            return torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MissingError(f"{source} does not exist; a PyTorch weight file (*.pth) is expected") from error
    except (IsADirectoryError, PermissionError) as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror}") from error
    except Exception as error:  # a damaged file makes torch raise nearly any exception, its advice is unsafe
        if code := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{source} contains a pickled {code[1]} besides weights, and restain runs no code from a file; "
                "save only the weights, with torch.save(network.state_dict(), FILE)"
            ) from error
        raise CheckpointError(
            f"{source} is not a PyTorch weight file, or is damaged or cut short; copy it again"
        ) from error


def _innermost(source: Path, found: Any) -> Any:
    """The dict of tensors, by the usual names, or the only one."""
    while isinstance(found, Mapping) and not _is_state(found):
        inside = next((name for name in _WRAPPERS if isinstance(found.get(name), Mapping) and found[name]), None)
        if inside is None:
            candidates = [str(name) for name, value in found.items() if isinstance(value, Mapping) and value]
            if len(candidates) > 1:
                raise CheckpointError(
                    f"{source} holds {first(candidates, 9)}; name the one with the weights of the generator as the key"
                )
            if not candidates:
                break
            inside = next(name for name, value in found.items() if isinstance(value, Mapping) and value)
        found = found[inside]
    return found


def _under(source: Path, found: Any, key: str) -> Any:
    """The value under a key."""
    here, rest = found, key
    while isinstance(here, Mapping):
        if rest in here:
            return here[rest]
        within = {str(name)[len(rest) + 1 :]: value for name, value in here.items() if str(name).startswith(f"{rest}.")}
        if within:
            return within
        name, dot, rest = rest.partition(".")
        if not dot or name not in here:
            break
        here = here[name]
    raise CheckpointError(f"{source} has nothing under '{key}'; it holds {_contents(found)}")


def _contents(found: Any) -> str:
    if not isinstance(found, Mapping):
        return f"a {type(found).__name__}"
    return first(
        [
            f"{name} ({len(value)} entries)" if isinstance(value, Mapping) else f"{name} ({type(value).__name__})"
            for name, value in found.items()
        ],
        9,
    )


def _tensors(source: Path, found: Any) -> State:
    """What was found, if it is named tensors whose numbers are all in the file."""
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{source} holds a {type(found).__name__}; expected a state dict, names with tensors")
    others = [str(name) for name, value in found.items() if not isinstance(value, Tensor)]
    if others or not found:
        raise CheckpointError(
            f"{source} holds {first(others) or 'nothing'}; expected a state dict, names with tensors, by itself or "
            f"under one of {', '.join(_WRAPPERS)}, or under a key that you name"
        )
    state = {str(name): value for name, value in found.items()}
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{source}: {name} is sparse or quantised; save it as plain numbers")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{source}: {name} has {tensor.numel():,} numbers by its shape, more than are in the file"
            )
    return state


def _is_state(found: Mapping[Any, Any]) -> bool:
    return bool(found) and all(isinstance(value, Tensor) for value in found.values())


def _without(prefix: str, state: State) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _is_unused(name: str, state: State) -> bool:
    """Whether it belongs to the statistics that PyTorch before 0.4 saved for instance norms, which never used them."""
    layer, _, parameter = name.rpartition(".")
    return parameter in ("running_mean", "running_var", "num_batches_tracked") and f"{layer}.weight" not in state
