"""Weight files of networks for evaluation: found in the usual caches, read without running code, hashed.

Nothing is downloaded, because a figure must not depend on what a server offers today.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from restain.errors import CheckpointError, MissingError


def cached_weights(name: str) -> Path:
    """Path of a downloaded file in torch's cache, `$TORCH_HOME/hub/checkpoints`; it may not exist."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints" / name


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors file or from what `torch.save` wrote.

    Raises:
        MissingError: there is no such file.
        CheckpointError: it is damaged, or is not a dict of tensors.
    """
    if not path.is_file():
        raise MissingError(f"{path} does not exist; a file of weights is expected")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise nearly any
        raise CheckpointError(f"{path} cannot be read as weights ({type(error).__name__}); fetch it again") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise CheckpointError(f"{path} holds {type(found).__name__}, but a dict of named tensors is expected")
    return dict(found)


def fill(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights strictly and prepare the network for evaluation: eval mode, no gradients.

    Raises:
        CheckpointError: names or shapes do not fit; the message names the first.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(str(error).split("\n")[1].split())[:200]
        raise CheckpointError(f"{path} does not fit {type(network).__name__}: {first}") from error
    network.eval().requires_grad_(requires_grad=False)


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
