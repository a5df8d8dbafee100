"""The checkpoint: one safetensors file with the weights; its header has the architecture and the provenance.

It contains no code, so files from unknown sources are safe to open.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from restain.errors import CheckpointError, ConfigError, MissingError, OutputError
from restain.image import SANE_MPP, atomic_path, check_mpp
from restain.models import find_model, packaged_models
from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig, Classifier
from restain.networks.budget import within
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.published_test import published_test
from restain.networks.segmenter import Segmenter, SegmenterConfig
from restain.networks.stainer import Stainer
from restain.networks.unet import UNet, UNetConfig

FORMAT = 1
"""Increased when older versions of restain can no longer read the file."""

Network = Generator | UNet | Autoencoder | Classifier | Segmenter
NetworkKind = Literal["generator", "unet", "autoencoder", "classifier", "segmenter"]

_NETWORKS: dict[NetworkKind, tuple[Callable[[Any], Network], type[BaseModel]]] = {
    "generator": (Generator, GeneratorConfig),
    "unet": (UNet, UNetConfig),
    "autoencoder": (Autoencoder, AuxiliaryConfig),
    "classifier": (Classifier, AuxiliaryConfig),
    "segmenter": (Segmenter, SegmenterConfig),
}
_HEADER_KEY = "restain"
_SLACK = 10**6  # for what a network makes besides its weights


class CheckpointInfo(BaseModel):
    """The header of a checkpoint."""

    model_config = ConfigDict(frozen=True)

    format: int
    kind: NetworkKind
    network: dict[str, Any]
    """The network's config, from which it is rebuilt."""
    parameters: int
    """Number of learnable weights."""
    sha256: str
    """Of the weights alone, whenever they were saved."""
    method: str
    """The method that trained it, or `imported`."""
    stain: str | None = None
    """What the virtual stain shows, such as `HER2`."""
    mpp: float | None = Field(None, ge=SANE_MPP[0], le=SANE_MPP[1])
    """Micrometres per pixel of the images that it was trained on."""
    created: datetime
    versions: dict[str, str]
    """Of restain and torch, when it was saved."""
    extra: dict[str, Any] = {}


def save_checkpoint(
    path: Path,
    network: nn.Module,
    *,
    method: str,
    stain: str | None = None,
    mpp: float | None = None,
    extra: Mapping[str, Any] | None = None,
) -> CheckpointInfo:
    """Write a network to one file, atomically.

    Args:
        path: the file, usually `*.safetensors`; an existing one is replaced.
        network: a generator, U-Net, autoencoder, classifier or segmenter; on any device, in any mode.
        method: the name of the method that trained it.
        stain: what the virtual stain shows.
        mpp: micrometres per pixel of the training images, 0.05 to 10.
        extra: further metadata that JSON can represent.

    Raises:
        InputError: mpp is out of range.
        CheckpointError: checkpoints of this kind of network are not supported.
        OutputError: the file cannot be written.
    """
    if not isinstance(network, Network):
        raise CheckpointError(
            f"a {type(network).__name__} cannot be saved as a checkpoint; expected one of {', '.join(_NETWORKS)}"
        )
    if mpp is not None:
        check_mpp(mpp)
    weights = {name: weight.detach().cpu().contiguous() for name, weight in network.state_dict().items()}
    info = CheckpointInfo(
        format=FORMAT,
        kind=next(kind for kind, (network_type, _) in _NETWORKS.items() if type(network) is network_type),
        network=network.config.model_dump(mode="json"),
        parameters=sum(weight.numel() for weight in network.parameters()),
        sha256=fingerprint(weights),
        method=method,
        stain=stain,
        mpp=mpp,
        created=datetime.now(UTC).replace(microsecond=0),
        versions={"restain": version("restain"), "torch": torch.__version__},
        extra=dict(extra or {}),
    )
    _write(path, weights, info)
    return info


def add_to_checkpoint(path: Path, extra: Mapping[str, Any]) -> CheckpointInfo:
    """Add to `extra` in the header of a checkpoint; its weights, date and versions stay.

    Raises:
        MissingError, CheckpointError: as in `load_checkpoint`.
        OutputError: the file cannot be written, or belongs to the package; it stays as it was.
    """
    check_changeable(path)
    info, weights = read_weights(path)
    info = info.model_copy(update={"extra": {**info.extra, **extra}})
    _write(path, weights, info)
    return info


def check_changeable(path: Path) -> None:
    """Check that a checkpoint does not belong to the package.

    Raises:
        OutputError: it is.
    """
    found = find_model(path)
    if found.resolve() in (model.weights for model in packaged_models().values()):
        raise OutputError(f"{path} comes with restain and is not changed; copy {found} and give the copy")


def read_info(path: Path | str) -> CheckpointInfo:
    """Read the header of a checkpoint without its weights.

    Args:
        path: a checkpoint, or the name of a model of the package, such as `colon-panck`.

    Raises:
        MissingError: there is no such file or model.
        CheckpointError: it is damaged, cut short, something else, or from a newer restain.
    """
    path = find_model(path)
    with _opened(path) as file:
        return _header(path, file.metadata())


def load_checkpoint(path: Path | str, device: str | torch.device = "cpu") -> tuple[Network, CheckpointInfo]:
    """Load the network of a checkpoint, as it was trained.

    Args:
        path: a checkpoint, or the name of a model of the package.
        device: where to.

    Raises:
        MissingError: there is no such file or model.
        CheckpointError: it is damaged, cut short, something else, or from a newer restain.
    """
    info, weights = read_weights(path)
    network_type, config_type = _NETWORKS[info.kind]
    try:
        # initial weights are drawn and replaced at once; a network much larger than the file is not built
        with torch.random.fork_rng(devices=[]), within(2 * sum(map(torch.numel, weights.values())) + _SLACK):
            network = network_type(config_type.model_validate(info.network))
    except (ValidationError, RuntimeError, ConfigError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise CheckpointError(
            f"{path}: its weights do not fit the {info.kind} that its header describes ({reason}); "
            f"it was saved by restain {info.versions.get('restain', '?')}"
        ) from error
    if differences := misfit(network, weights):
        raise CheckpointError(
            f"{path}: its weights do not fit the {info.kind} that its header describes: {differences}; it was trained "
            f"by another version of restain, {info.versions.get('restain', '?')}: train it again, or stain with that"
        )
    network.load_state_dict(weights)
    return network.to(device), info


def misfit(module: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Describe how saved weights differ in name or shape from those of a module; empty if they fit.

    Empty tensors that take the shape of what is loaded, such as a pool of images, always fit.
    """
    expected = module.state_dict()
    lacking = [name for name in expected if name not in weights]
    surplus = [name for name in weights if name not in expected]
    others = [
        f"{name} has the shape {_times(weights[name])} instead of {_times(tensor)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape and tensor.numel()
    ]
    return "; ".join(
        f"{words} {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for words, names in (("they lack", lacking), ("they have also", surplus), ("of them", others))
        if names
    )


def _times(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "of a number"


def load_generator(
    path: Path | str, device: str | torch.device = "cpu", *, as_published_test: bool = False, seed: int = 0
) -> Stainer:
    """Load a generator or U-Net for staining: in evaluation mode, without gradients, spectral norm folded away.

    Args:
        path: a checkpoint, or the name of a model of the package, such as `colon-panck`.
        device: where to.
        as_published_test: stain as in the published test of pix2pix and PyramidP2P (`published_test`): batch norm by
            the image at hand, dropout on.
        seed: of that dropout.

    Raises:
        MissingError: there is no such file or model.
        CheckpointError: as in `load_checkpoint`, or it holds another kind of network.
        InputError: the published test of a network without batch norm is asked for.
    """
    network, info = load_checkpoint(path, device)
    if not isinstance(network, Stainer):
        raise CheckpointError(f"{path} is a {info.kind} trained by '{info.method}' and cannot stain; give a generator")
    network = (fold_spectral_norm(network) if isinstance(network, Generator) else network).eval().requires_grad_(False)
    return published_test(network, seed) if as_published_test else network


@torch.no_grad()
def fold_spectral_norm(generator: Generator) -> Generator:
    """Fold spectral norm into the weights; changes and returns the generator.

    Its results are those of evaluation mode; it can no longer be trained under spectral norm.
    """
    training = generator.training
    generator.eval()  # in training mode, reading a weight would move its singular vectors
    for layer in generator.modules():
        if is_parametrized(layer, "weight"):
            remove_parametrizations(layer, "weight", leave_parametrized=True)
    generator.config = generator.config.model_copy(update={"spectral_norm": False})
    return generator.train(training)


def read_weights(path: Path | str) -> tuple[CheckpointInfo, dict[str, Tensor]]:
    """Read the header of a checkpoint and its tensors by name.

    Raises:
        MissingError, CheckpointError: as in `load_checkpoint`.
    """
    path = find_model(path)
    with _opened(path) as file:
        info = _header(path, file.metadata())
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    if fingerprint(weights) != info.sha256:
        raise CheckpointError(f"{path} is damaged: its weights differ from those that were saved; copy it again")
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise CheckpointError(
            f"{path} has weights that are not finite, so its training diverged; use an earlier checkpoint"
        )
    return info, weights


def _write(path: Path, weights: dict[str, Tensor], info: CheckpointInfo) -> None:
    contents = safetensors.torch.save(weights, {_HEADER_KEY: info.model_dump_json()})
    with atomic_path(path) as temporary:
        temporary.write_bytes(contents)


def _header(path: Path, metadata: Mapping[str, str] | None) -> CheckpointInfo:
    if not metadata or _HEADER_KEY not in metadata:
        raise CheckpointError(
            f"{path} is a safetensors file, but not one of restain's: its header has no '{_HEADER_KEY}'"
        )
    try:
        header = json.loads(metadata[_HEADER_KEY])
        if header["format"] > FORMAT:
            saved_by = header["versions"]["restain"]
            raise CheckpointError(
                f"{path} has format {header['format']}, saved by restain {saved_by}; this is restain "
                f"{version('restain')}, which reads formats up to {FORMAT}: upgrade it"
            )
        return CheckpointInfo.model_validate(header)
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise CheckpointError(
            f"{path}: its header is not a restain header ({reason}); copy or import it again"
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; any failure is raised as a restain error."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; a checkpoint is one file, such as model.safetensors in it")
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a regular file; a checkpoint (*.safetensors) is expected")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError as error:
        raise MissingError(f"{path} does not exist; a checkpoint (*.safetensors) is expected") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise CheckpointError(_what_it_is(path, error)) from error


def _what_it_is(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        beginning = file.read(9)
    if beginning[:2] in (b"PK", b"\x80\x02"):
        return f"{path} is a PyTorch file; turn it into a checkpoint with `restain import`"
    if beginning[8:] == b"{":
        return f"{path} is damaged or cut short ({error}); copy it again"
    return f"{path} is not a restain checkpoint, or cut short ({error}); give a *.safetensors file of restain's"


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """A sha256 of tensors with their names, types and shapes, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        weight = weights[name]
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)};".encode())
        digest.update(weight.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
