"""Imports weight files of other projects: the ResNets and the U-Net of CycleGAN, pix2pix and others.

The variants are recognised by names and shapes of tensors; `restain.checkpoint.layouts` has the names.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from restain.checkpoint.file import CheckpointInfo, save_checkpoint
from restain.checkpoint.foreign import State, first, read_state
from restain.checkpoint.layouts import PublishedNetwork, published_names
from restain.errors import CheckpointError, ConfigError, OutputError
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier
from restain.networks.blocks import binomial
from restain.networks.budget import within
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.unet import UNet, UNetConfig

_DROPOUT = 0.5
"""The only rate in use; weight files do not record it, and staining does not need it."""
_COUNTER = ".num_batches_tracked"  # which PyTorch before 0.4 did not keep, and nothing depends on
_SLACK = 10**6  # for what a network makes besides its weights
_DEEPEST = 17  # levels of a U-Net that are counted; no image is large enough for more


def import_published(
    source: Path,
    out: Path,
    *,
    kind: Literal["generator", "autoencoder"] = "generator",
    key: str | None = None,
    mpp: float | None = None,
    stain: str | None = None,
) -> CheckpointInfo:
    """Convert a published weight file (*.pth) to a checkpoint.

    Args:
        source: the file, a state dict or a dict that holds one.
        out: the checkpoint to write.
        kind: what the file is, as `load_published` takes it.
        key: where in the file the weights are, likewise.
        mpp: micrometres per pixel of the images that the network was trained on.
        stain: what the virtual stain shows, such as `HER2`.

    Raises:
        MissingError: there is no such file.
        CheckpointError: it holds something else; the message says what.
        InputError, OutputError: as in `save_checkpoint`, or the checkpoint would replace the file.
    """
    if out.exists() and out.samefile(source):
        raise OutputError(f"{out} is the input file; give another path for the checkpoint")
    network = load_published(source, kind=kind, key=key)
    with source.open("rb") as file:
        origin = {"imported_from": source.name, "imported_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return save_checkpoint(out, network, method="imported", mpp=mpp, stain=stain, extra=origin)


def load_published(
    source: Path, *, kind: Literal["generator", "autoencoder"] = "generator", key: str | None = None
) -> PublishedNetwork:
    """Load the network of a published weight file, recognised by names and shapes; runs no code from the file.

    Args:
        source: the file, a state dict or a dict that holds one.
        kind: VSMT's autoencoders have the very names of a CycleGAN generator with dropout, but compute something else:
            only the caller knows. A classifier is recognised by its last layer.
        key: where in the file the weights are, as `read_state` takes it; without it, the usual places are tried.

    Raises:
        MissingError: there is no such file.
        CheckpointError: it holds something else; the message says what.
    """
    state = read_state(source, key)
    try:
        network = _build(state, kind)
        names = published_names(network)
        _check_names(network, names, state)
        found = {ours: state[theirs] for ours, theirs in names.items() if theirs in state}
        network.load_state_dict(network.state_dict() | found)
    except CheckpointError as error:
        raise CheckpointError(f"{source} holds {_guess(state)}: {error}") from error
    return network


def _build(state: State, kind: str) -> PublishedNetwork:
    """Build an untrained network with the architecture of the file, if it is no larger than the file."""
    try:
        # the initial weights are drawn, and replaced at once
        with torch.random.fork_rng(devices=[]), within(2 * sum(map(torch.numel, state.values())) + _SLACK):
            return _unet(state) if any(name.startswith("model.model.") for name in state) else _resnet(state, kind)
    except ValidationError as error:
        reason = error.errors()[0]
        raise CheckpointError(
            f"a network of this shape cannot be built ({reason['loc'][0]} {reason['input']}: {reason['msg']})"
        ) from error
    except ConfigError as error:
        raise CheckpointError(f"a network of this shape is much larger than the file ({error})") from error


def _unet(state: State) -> UNet:
    stem = state.get("model.model.0.weight")
    if stem is None or stem.ndim != 4:
        raise CheckpointError("expected the U-Net generator of pix2pix, whose first layer is model.model.0")
    depth, block = 1, "model.model.1"
    while depth < _DEEPEST and any(name.startswith(f"{block}.model.") for name in state):
        depth, block = depth + 1, f"{block}.model.3"
    if depth > 2 and "model.model.1.model.2.weight" not in state:
        raise CheckpointError("it normalises by instance; only the U-Net with batch norm, pix2pix's default, is known")
    return UNet(UNetConfig(width=stem.shape[0], depth=depth, dropout=_DROPOUT))


def _resnet(state: State, kind: str) -> PublishedNetwork:
    blocks = sorted({int(found[1]) for key in state if (found := re.match(r"model\.(\d+)\.conv_block\.", key))})
    stem = state.get("model.1.weight", state.get("model.1.weight_orig"))
    if not blocks or stem is None or stem.ndim != 4:
        raise CheckpointError("expected a ResNet generator of CycleGAN, CUT or one of their descendants")
    if blocks[0] not in (10, 12):
        raise CheckpointError(
            f"its residual blocks begin at layer {blocks[0]}; expected 10 or 12, which is where two downsamplings end"
        )
    width = stem.shape[0]
    if "fc.weight" in state:
        return Classifier(AuxiliaryConfig(width=width, blocks=len(blocks)))
    if kind == "autoencoder":
        return Autoencoder(AuxiliaryConfig(width=width, blocks=len(blocks)))
    second = f"model.{blocks[0]}.conv_block.6.weight"
    has_dropout = any(key in state and state[key].ndim == 4 for key in (second, f"{second}_orig"))
    return Generator(
        GeneratorConfig(
            width=width,
            blocks=len(blocks),
            norm="batch" if "model.2.weight" in state else "instance",
            antialias=blocks[0] == 12,
            spectral_norm="model.1.weight_orig" in state,
            dropout=_DROPOUT if has_dropout else 0.0,
        )
    )


def _check_names(network: PublishedNetwork, names: Mapping[str, str], state: State) -> None:
    """Refuse a state dict that has too few, too many or other tensors than the network, or another blur."""
    shape = ", ".join(f"{name} {value}" for name, value in network.config.model_dump().items())
    expected = {names[ours]: tensor for ours, tensor in network.state_dict().items()}
    blurs = _blurs(network)
    missing = [name for name in expected if name not in state and not name.endswith(_COUNTER)]
    surplus = [name for name in state if name not in expected and name not in blurs]
    if missing or surplus:
        differences = [f"it lacks {first(missing)}"] * bool(missing) + [f"it has also {first(surplus)}"] * bool(surplus)
        raise CheckpointError(
            f"the nearest known layout is the {type(network).__name__} ({shape}), but {', and '.join(differences)}"
        )
    for name, tensor in (expected | blurs).items():
        if name in state and state[name].shape != tensor.shape:
            raise CheckpointError(f"{name} is {_times(state[name])} where the layout ({shape}) has {_times(tensor)}")
    for name, blur in blurs.items():
        if name in state and not torch.allclose(state[name], blur, atol=1e-6):
            raise CheckpointError(f"{name}, the blur of a resampling, is not the usual binomial one")


def _blurs(network: PublishedNetwork) -> State:
    """The constant blur kernels by published name; we keep none in a state dict."""
    if not (isinstance(network, Generator) and network.config.antialias):
        return {}
    width, end = network.config.width, 12 + network.config.blocks
    down, up = binomial(3), 4 * binomial(4)
    kernels = {7: (down, 2), 11: (down, 4), end: (up, 4), end + 4: (up, 2)}
    return {f"model.{at}.filt": kernel.expand(times * width, 1, -1, -1) for at, (kernel, times) in kernels.items()}


def _guess(state: State) -> str:
    """Describe what a foreign state dict seems to be."""
    kernel = next((tensor.shape[2:] for tensor in state.values() if tensor.ndim == 4), None)
    if any(key.startswith("stages.") for key in state):
        return "a network of restain already, which needs no import"
    if any(key.startswith("mlp_") for key in state):
        return "the feature sampler of PatchNCE"
    if any(key.startswith("model.model.") for key in state):
        return "a U-Net generator"
    if any(".conv_block." in key for key in state):
        return "a ResNet"
    if kernel == (4, 4):
        return "a discriminator"
    return f"{len(state)} tensors ({first(list(state))})"


def _times(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
