"""Reads the weight files of other projects: the ResNet layout that CycleGAN, pix2pix and CUT handed down.

CycleGAN, PyramidP2P (batch norm), CUT, ASP, PSPStain, SIM-GAN, M2PL-GAN, MDCL and VSMT all number the layers of one
sequence. Only those numbers and the tensors' shapes tell the variants apart; `_generator_layers` and
`_auxiliary_layers` are the whole knowledge of it.
"""

import hashlib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from restain.checkpoint.file import CheckpointInfo, save_checkpoint
from restain.errors import CheckpointError, MissingError
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier
from restain.networks.blocks import binomial
from restain.networks.generator import Generator, GeneratorConfig

State = dict[str, Tensor]
Network = Generator | Autoencoder | Classifier

_PARAMETERS = {
    "weight": "weight",
    "bias": "bias",
    "running_mean": "running_mean",
    "running_var": "running_var",
    "num_batches_tracked": "num_batches_tracked",
    "parametrizations.weight.original": "weight_orig",
    "parametrizations.weight.0._u": "weight_u",
    "parametrizations.weight.0._v": "weight_v",
}
"""Names inside a layer: ours, theirs. They use the older form of spectral norm."""

_WRAPPERS = ("state_dict", "netG", "net_G", "generator", "params_ema", "params")
_PREFIXES = ("module.", "_orig_mod.", *(f"{wrapper}." for wrapper in _WRAPPERS))
_DROPOUT = 0.5
"""The only rate in use; a weight file does not tell, and staining does not need it."""


def import_published(
    source: Path,
    out: Path,
    *,
    kind: Literal["generator", "autoencoder"] = "generator",
    mpp: float | None = None,
    stain: str | None = None,
) -> CheckpointInfo:
    """Turn a published weight file (*.pth) into a checkpoint.

    Args:
        source: the file, a state dict or a dict that holds one.
        out: the checkpoint to write.
        kind: what the file is, as `load_published` takes it.
        mpp: micrometres per pixel of the images that the network was trained on.
        stain: what the virtual stain shows, such as `HER2`.

    Raises:
        MissingError: there is no such file.
        CheckpointError: it holds something else; the message says what.
        InputError, OutputError: as in `save_checkpoint`.
    """
    network = load_published(source, kind=kind)
    with source.open("rb") as file:
        origin = {"imported_from": source.name, "imported_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    return save_checkpoint(out, network, method="imported", mpp=mpp, stain=stain, extra=origin)


def load_published(source: Path, *, kind: Literal["generator", "autoencoder"] = "generator") -> Network:
    """Rebuild the network of a published weight file, its shape read off names and sizes; runs no code from the file.

    Args:
        source: the file, a state dict or a dict that holds one.
        kind: VSMT's autoencoders have the very names of a CycleGAN generator with dropout, but compute something else:
            only the caller knows. A classifier is recognised by its last layer.

    Raises:
        MissingError: there is no such file.
        CheckpointError: it holds something else; the message says what.
    """
    state = _read(source)
    try:
        network = _build(state, kind)
        names = published_names(network)
        _check_names(network, names, state)
        network.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{source} holds {_guess(state)}: {error}") from error
    return network


def published_names(network: Network) -> dict[str, str]:
    """The published name of each tensor in the network's state dict."""
    layers = _generator_layers(network.config) if isinstance(network, Generator) else _auxiliary_layers(network)
    candidates = {
        f"stages.{layer}.{parameter}": f"{published_layer}.{published_parameter}"
        for layer, published_layer in layers.items()
        for parameter, published_parameter in _PARAMETERS.items()
    }
    return {name: candidates[name] for name in network.state_dict()}


def _generator_layers(config: GeneratorConfig) -> dict[str, str]:
    """Convolutions and their norms: ours, theirs. An up stage may begin with a blur."""
    blur = int(config.antialias)
    down2, blocks = (8, 12) if config.antialias else (7, 10)
    up1 = blocks + config.blocks + blur
    up2 = up1 + 3 + blur
    layers = {
        "stem.0": "model.1",
        "stem.1": "model.2",
        "down1": "model.4",
        "shrink1.0": "model.5",
        "down2": f"model.{down2}",
        "shrink2.0": f"model.{down2 + 1}",
        f"up1.{blur}": f"model.{up1}",
        f"up1.{blur + 1}": f"model.{up1 + 1}",
        f"up2.{blur}": f"model.{up2}",
        f"up2.{blur + 1}": f"model.{up2 + 1}",
        "output.1": f"model.{up2 + 4}",
    }
    second = 6 if config.dropout else 5
    for index in range(config.blocks):
        for layer in (1, 2, second, second + 1):
            layers[f"block{index}.body.{layer}"] = f"model.{blocks + index}.conv_block.{layer}"
    return layers


def _auxiliary_layers(network: Autoencoder | Classifier) -> dict[str, str]:
    """Convolutions of VSMT's auxiliary networks: ours, theirs; all blocks there count a dropout, also one of rate 0."""
    end = 10 + network.config.blocks
    layers = {"stem.1": "model.1", "down1.1": "model.4", "down2.1": "model.7"}
    if isinstance(network, Autoencoder):
        layers |= {"up1.0": f"model.{end}", "up2.0": f"model.{end + 3}", "output.1": f"model.{end + 7}"}
    else:
        layers |= {"shrink1.0": f"model.{end}", "shrink2.0": f"model.{end + 3}", "logits.2": "fc"}
    second = 6 if isinstance(network, Autoencoder) else 5
    for index in range(network.config.blocks):
        layers[f"block{index}.body.1"] = f"model.{10 + index}.conv_block.1"
        layers[f"block{index}.body.{second}"] = f"model.{10 + index}.conv_block.6"
    return layers


def _build(state: State, kind: str) -> Network:
    """An untrained network of the shape that the names and sizes tell."""
    blocks = sorted({int(found[1]) for key in state if (found := re.match(r"model\.(\d+)\.conv_block\.", key))})
    stem = state.get("model.1.weight", state.get("model.1.weight_orig"))
    if not blocks or stem is None or stem.ndim != 4:
        raise CheckpointError("expected a ResNet generator of CycleGAN, CUT or one of their descendants")
    if blocks[0] not in (10, 12):
        raise CheckpointError(
            f"its residual blocks begin at layer {blocks[0]}; expected 10 or 12, which is where two downsamplings end"
        )
    width = stem.shape[0]
    try:
        with torch.random.fork_rng(devices=[]):  # the initial weights are drawn, and replaced at once
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
    except ValidationError as error:
        raise CheckpointError(f"a network of this shape cannot be built ({error})") from error


def _check_names(network: Network, names: Mapping[str, str], state: State) -> None:
    """Refuse a state dict that has too few, too many or other tensors than the network, or another blur."""
    shape = ", ".join(f"{name} {value}" for name, value in network.config.model_dump().items())
    expected = {names[ours]: tensor for ours, tensor in network.state_dict().items()}
    blurs = _blurs(network)
    missing = [name for name in expected if name not in state]
    surplus = [name for name in state if name not in expected and name not in blurs]
    if missing or surplus:
        differences = [f"it lacks {_first(missing)}"] * bool(missing) + [f"it has also {_first(surplus)}"] * bool(
            surplus
        )
        raise CheckpointError(
            f"the nearest known layout is the {type(network).__name__} ({shape}), but {', and '.join(differences)}"
        )
    for name, tensor in (expected | blurs).items():
        if name in state and state[name].shape != tensor.shape:
            raise CheckpointError(f"{name} is {_times(state[name])} where the layout ({shape}) has {_times(tensor)}")
    for name, blur in blurs.items():
        if name in state and not torch.allclose(state[name], blur, atol=1e-6):
            raise CheckpointError(f"{name}, the blur of a resampling, is not the usual binomial one")


def _blurs(network: Network) -> State:
    """The constant blur kernels by published name; we keep none in a state dict."""
    if not (isinstance(network, Generator) and network.config.antialias):
        return {}
    width, end = network.config.width, 12 + network.config.blocks
    down, up = binomial(3), 4 * binomial(4)
    kernels = {7: (down, 2), 11: (down, 4), end: (up, 4), end + 4: (up, 2)}
    return {f"model.{at}.filt": kernel.expand(times * width, 1, -1, -1) for at, (kernel, times) in kernels.items()}


def _read(source: Path) -> State:
    """The innermost state dict of a file, its names without the prefixes that wrappers add."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch remarks on foreign files is said below
            found = torch.load(source, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise MissingError(f"{source} does not exist; a PyTorch weight file (*.pth) is expected") from error
    except (IsADirectoryError, PermissionError) as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror}") from error
    except (
        Exception
    ) as error:  # a damaged file makes torch raise nearly any exception, with advice that is unsafe to pass on
        if code := re.search(r"Unsupported global: GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{source} holds more than weights, namely a pickled {code[1]}, and restain runs no code from a file; "
                "where it was made, save the weights alone with torch.save(network.state_dict(), FILE)"
            ) from error
        raise CheckpointError(
            f"{source} is not a PyTorch weight file, or is damaged or cut short; copy it again"
        ) from error
    return _innermost(source, found)


def _innermost(source: Path, found: Any) -> State:
    while isinstance(found, Mapping) and (
        inside := next((key for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
    ):
        found = found[inside]
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{source} holds a {type(found).__name__}; expected a state dict, names with tensors")
    others = [str(key) for key, value in found.items() if not isinstance(value, Tensor)]
    if others or not found:
        raise CheckpointError(
            f"{source} holds {_first(others) or 'nothing'}; expected a state dict, names with tensors, by itself or "
            f"under one of {', '.join(_WRAPPERS)}"
        )
    state = {str(key): value for key, value in found.items()}
    while prefix := next((prefix for prefix in _PREFIXES if any(key.startswith(prefix) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return {key: value for key, value in state.items() if not _is_unused(key, state)}


def _is_unused(key: str, state: State) -> bool:
    """Whether it belongs to the statistics that PyTorch before 0.4 saved for instance norms, which never used them."""
    layer, _, parameter = key.rpartition(".")
    return parameter in ("running_mean", "running_var", "num_batches_tracked") and f"{layer}.weight" not in state


def _guess(state: State) -> str:
    """What a foreign state dict seems to be, in words."""
    kernel = next((tensor.shape[2:] for tensor in state.values() if tensor.ndim == 4), None)
    if any(key.startswith("stages.") for key in state):
        return "a network of restain already"
    if any(key.startswith("mlp_") for key in state):
        return "the feature sampler of PatchNCE"
    if any(key.startswith("model.model.") for key in state):
        return "a U-Net generator"
    if any(".conv_block." in key for key in state):
        return "a ResNet"
    if kernel == (4, 4):
        return "a discriminator"
    return f"{len(state)} tensors ({_first(list(state))})"


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")


def _times(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))
