"""Extractors: networks whose features FID and KID compare, each with its weights and its resizing.

Plain FID and KID use Inception v3 with the weights ported from TensorFlow. Figures of any other extractor have its
name.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restain.errors import InputError, ShapeError
from restain.metrics.weights import cached_weights, fill, fingerprint, load_weights
from restain.networks.inception import FidInception

INCEPTION_PX = 299
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256_START = "6726825d"
INCEPTION_SOURCE = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}"


@dataclass(frozen=True)
class Extractor:
    """A network with its weights."""

    name: str
    """Empty for the extractor of plain FID and KID."""
    network: nn.Module
    """N x 3 x h x w, as `prepare` makes them, to N x D, or to N x D x h' x w' whose means are taken."""
    prepare: Callable[[Tensor], Tensor]
    """N x 3 x H x W in [0, 1] to what the network takes."""
    resize: str
    """Description of `prepare`."""
    weights: str
    """SHA-256 of the weight file."""

    @property
    def key(self) -> str:
        """Suffix of the names `fid` and `kid`: empty for the default extractor."""
        return f"_{self.name.lower().replace(' ', '_')}" if self.name else ""

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of images, N x 3 x H x W in [0, 1], as N x D float32 on the CPU."""
        device = next((parameter.device for parameter in self.network.parameters()), images.device)
        features: Tensor = self.network(self.prepare(images.to(device)))
        if features.ndim not in (2, 4) or len(features) != len(images):
            shape = " × ".join(map(str, features.shape))
            raise ShapeError(f"{self.name}: expected features of {len(images)} × D or × D × h × w, got {shape}")
        return (features.mean((2, 3)) if features.ndim == 4 else features).float().cpu()

    @property
    def protocol(self) -> dict[str, str | float]:
        """The extractor's part of a protocol."""
        return {
            "extractor": self.name or "Inception v3 (TensorFlow)",
            "weights": f"sha256 {self.weights[:16]}",
            "resize": self.resize,
        }


def as_pytorch_fid(images: Tensor) -> Tensor:
    """Resize as pytorch-fid: bilinear between pixel centres to 299 x 299, no antialiasing, then to [-1, 1].

    Without antialiasing a 1024 px tile is sampled, not averaged, so small structures appear or vanish with their
    position.
    """
    size = (INCEPTION_PX, INCEPTION_PX)
    return 2 * F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=False) - 1


def as_torch_fidelity(images: Tensor) -> Tensor:
    """Resize as torch-fidelity: bilinear between pixel corners, as TensorFlow 1 did, then (level - 128) / 128."""
    for dim in (-2, -1):
        length = images.shape[dim]
        # float32 all the way, as TensorFlow computes it: rounding decides which pixel a position falls on.
        place = torch.arange(INCEPTION_PX, dtype=torch.float32) * (
            torch.tensor(length, dtype=torch.float32) / INCEPTION_PX
        )
        below = place.long().clamp_max(length - 1)
        shape = (-1, 1) if dim == -2 else (-1,)
        share = (place - below).view(shape).to(images)
        lower = images.index_select(dim, below.to(images.device))
        upper = images.index_select(dim, (below + 1).clamp_max(length - 1).to(images.device))
        images = lower + (upper - lower) * share
    return (255 * images - 128) / 128


RESIZES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "pytorch-fid": (as_pytorch_fid, "bilinear to 299 px without antialiasing (pytorch-fid)"),
    "torch-fidelity": (as_torch_fidelity, "bilinear to 299 px as TensorFlow 1 (torch-fidelity)"),
}
"""How Inception's input is resized, by the tool that does it so."""


def inception(weights: Path | None = None, resize: str = "pytorch-fid", device: str = "cpu") -> Extractor:
    """The extractor of plain FID and KID.

    Args:
        weights: the file; None takes it from torch's cache.
        resize: a name in `RESIZES`.
        device: where it runs.

    Raises:
        MissingError: no weights; the message says where to get them.
        CheckpointError: the file is not that of Inception v3 as ported from TensorFlow.
    """
    path = weights or cached_weights(INCEPTION_FILE)
    loaded = load_weights(path)
    network = FidInception()
    fill(network, loaded, path)
    prepare, words = RESIZES[resize]
    digest = fingerprint(path)
    name = "" if digest.startswith(INCEPTION_SHA256_START) else "Inception v3 with other weights"
    return Extractor(name, network.to(device), prepare, words, digest)


def extractor_from_entry(entry: str, weights: Path, device: str = "cpu") -> Extractor:
    """Any other network as extractor.

    Args:
        entry: `module:attribute`; the attribute is called without arguments and returns a module that maps
            N x 3 x H x W in [0, 1] to N x D or N x D x h x w. Its attribute `input_px`, if any, is the side that images
            are resized to (bilinear, antialiased); its `name`, or else its class, names the figures.
        weights: its weight file.
        device: where it runs.

    Raises:
        InputError: the entry cannot be imported, or does not return a module.
        MissingError, CheckpointError: as in `load_weights` and `fill`.
    """
    network = _call_entry(entry)
    fill(network, load_weights(weights), weights)
    side = getattr(network, "input_px", None)
    name = str(getattr(network, "name", type(network).__name__))

    def prepare(images: Tensor) -> Tensor:
        if side is None:
            return images
        return F.interpolate(images, (side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)

    words = "none" if side is None else f"bilinear to {side} px, antialiased"
    return Extractor(name, network.to(device), prepare, words, fingerprint(weights))


class FeatureMatrix:
    """Features of a known number of tiles, filled batch by batch."""

    def __init__(self, tiles: int) -> None:
        self._tiles = tiles
        self._filled = 0
        self._rows = torch.empty(0)

    def add(self, features: Tensor) -> None:
        """Append the rows of a batch, N x D."""
        if not self._filled:
            self._rows = torch.empty(self._tiles, features.shape[1])
        self._rows[self._filled : self._filled + len(features)] = features
        self._filled += len(features)

    @property
    def rows(self) -> Tensor:
        """What was added, tiles x D, float32."""
        return self._rows[: self._filled]


def _call_entry(entry: str) -> nn.Module:
    module_name, _, attribute = entry.partition(":")
    try:
        make = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"extractor '{entry}' cannot be imported ({error}); give module:attribute, such as"
            " restain.networks.efficientnet:EfficientNetLite0"
        ) from error
    network = make() if callable(make) else make
    if not isinstance(network, nn.Module):
        raise InputError(f"extractor '{entry}' gives {type(network).__name__}; a torch module is expected")
    return network
