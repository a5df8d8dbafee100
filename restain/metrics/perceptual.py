"""LPIPS with the published weights: which files they are, and where they are found."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from restain.errors import CheckpointError, MissingError
from restain.metrics.weights import cached_weights, fill, fingerprint, load_weights
from restain.networks.lpips import CHANNELS, Backbone, Lpips

LABELS: dict[Backbone, str] = {"alex": "LPIPS, AlexNet", "vgg": "LPIPS, VGG-16"}
BACKBONE_FILES: dict[Backbone, str] = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
BACKBONE_SOURCE = "https://download.pytorch.org/models"
HEAD_SOURCE = "https://github.com/richzhang/PerceptualSimilarity/tree/master/lpips/weights/v0.1"


@dataclass(frozen=True)
class Perceptual:
    """LPIPS on one backbone, ready to measure."""

    backbone: Backbone
    measure: Callable[[Tensor, Tensor], Tensor]
    """(virtual, real), N x 3 x H x W in [0, 1] each, to N distances on the CPU."""
    weights: str
    """Beginnings of the SHA-256 of both weight files."""


def perceptual(backbone: Backbone, folder: Path | None = None, device: str = "cpu") -> Perceptual:
    """Load LPIPS.

    Args:
        backbone: `alex` or `vgg`.
        folder: folder with the ImageNet weights, named as published, and the head `alex.pth` or `vgg.pth`. None uses
            torch's cache; heads are also taken from an installed `lpips` package, which is not imported.
        device: where it runs.

    Raises:
        MissingError: a file is missing; the message says where to get it.
        CheckpointError: a file is something else.
    """
    body = _find(BACKBONE_FILES[backbone], folder, f"{BACKBONE_SOURCE}/{BACKBONE_FILES[backbone]}")
    head = _find(f"{backbone}.pth", folder or _lpips_package(), HEAD_SOURCE)
    weights = {name: value for name, value in load_weights(body).items() if name.startswith("features.")}
    published = load_weights(head)
    for place in range(len(CHANNELS[backbone])):
        name = f"lin{place}.model.1.weight"
        if name not in published:
            raise CheckpointError(f"{head} has no {name}; the head of LPIPS 0.1 is expected, see {HEAD_SOURCE}")
        weights[f"heads.{place}"] = published[name].flatten()
    network = Lpips(backbone)
    fill(network, weights, body)
    network.to(device)

    @torch.inference_mode()
    def measure(virtual: Tensor, real: Tensor) -> Tensor:
        # One pair at a time: VGG's first layers on a 1024 px tile alone fill half a gigabyte.
        pairs = zip(virtual.to(device), real.to(device), strict=True)
        return torch.cat([network(one[None], other[None]) for one, other in pairs]).cpu()

    return Perceptual(backbone, measure, f"sha256 {fingerprint(body)[:16]}, {fingerprint(head)[:16]}")


def _find(name: str, folder: Path | None, source: str) -> Path:
    cached = cached_weights(name)
    for path in (folder / name if folder else cached, cached):
        if path.is_file():
            return path
    raise MissingError(f"no {name}; get it from {source} into {folder or cached.parent}")


def _lpips_package() -> Path | None:
    spec = find_spec("lpips")
    return Path(spec.origin).parent / "weights" / "v0.1" if spec and spec.origin else None
