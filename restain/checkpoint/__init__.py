"""Checkpoints: one file with a trained network's weights, architecture and provenance."""

from restain.checkpoint.file import (
    CheckpointInfo,
    Network,
    add_to_checkpoint,
    check_changeable,
    fingerprint,
    fold_spectral_norm,
    load_checkpoint,
    load_generator,
    misfit,
    read_info,
    read_weights,
    save_checkpoint,
)
from restain.checkpoint.layouts import published_names
from restain.checkpoint.published import import_published, load_published

__all__ = [
    "CheckpointInfo",
    "Network",
    "add_to_checkpoint",
    "check_changeable",
    "fingerprint",
    "fold_spectral_norm",
    "import_published",
    "load_checkpoint",
    "load_generator",
    "load_published",
    "misfit",
    "published_names",
    "read_info",
    "read_weights",
    "save_checkpoint",
]
