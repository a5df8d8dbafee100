"""A generator with the metadata of its checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from restain.checkpoint import load_generator, read_info
from restain.models import find_model
from restain.networks.stainer import Stainer


@dataclass(frozen=True)
class Model:
    """A generator with the metadata of its checkpoint."""

    generator: Stainer
    sha256: str
    """Of the weights."""
    mpp: float | None = None
    """Micrometres per pixel that it was trained at."""
    stain: str | None = None
    name: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the checkpoint's header, such as its calibration."""

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.generator.parameters()).device


def load_model(path: Path | str, device: str | torch.device = "cpu") -> Model:
    """Load a generator for staining slides.

    Args:
        path: a checkpoint, or the name of a model of the package.
        device: where to.

    Raises:
        MissingError, CheckpointError: as in `load_generator`.
    """
    path = find_model(path)
    info = read_info(path)
    return Model(load_generator(path, device), info.sha256, info.mpp, info.stain, path.name, info.extra)
