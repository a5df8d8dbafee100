"""Distance of an image from the training H&E: a Gaussian over simple features of small blocks.

A network produces a result for every input, even unfamiliar ones: other stains, folds, ink, blur. Each block of an
image is described by a few features of colour and texture. Their Mahalanobis distance from the blocks of the training
images measures how unusual it is (as Lee et al. 2018, but with simple features instead of a network's).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from restain.errors import CheckpointError, InputError
from restain.stains import optical_density

BLOCK_PX = 64
"""Side of a block."""

FEATURES = 10
"""Features of a block."""

LEAST_BLOCKS = 100
"""Fewest blocks for a fit."""

USUAL = 0.99
"""Share of validation blocks below the threshold."""

_SHRINKAGE = 0.01  # shrinkage of the covariance towards its diagonal


@dataclass(frozen=True)
class Familiarity:
    """A model of the training H&E."""

    mean: Tensor
    """Of the features, K, float64."""
    precision: Tensor
    """Inverse covariance of the features, K x K, float64."""
    threshold: float
    """Distance above which a block is unfamiliar."""

    def distances(self, he: Tensor) -> Tensor:
        """Mahalanobis distance of every whole block: N x 3 x H x W in [0, 1] to N x H/64 x W/64.

        Raises:
            InputError: the images are smaller than a block.
        """
        features = block_features(he)
        away = features - self.mean.view(1, -1, 1, 1)
        return torch.einsum("nkhw,kl,nlhw->nhw", away, self.precision, away).clamp_min(0).sqrt()

    def unlike(self, he: Tensor) -> Tensor:
        """Which blocks are unfamiliar: N x H/64 x W/64, bool."""
        return self.distances(he) > self.threshold

    def as_json(self) -> dict[str, Any]:
        """For the header of a checkpoint."""
        return {"mean": self.mean.tolist(), "precision": self.precision.tolist(), "threshold": self.threshold}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Familiarity":
        """Read the output of `as_json`.

        Raises:
            CheckpointError: it is invalid; the header of a checkpoint may have been changed.
        """
        try:
            mean, precision = (torch.tensor(content[name], dtype=torch.float64) for name in ("mean", "precision"))
            known = cls(mean, precision, float(content["threshold"]))
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            raise _unusable(str(error)) from error
        shapes = tuple(mean.shape), tuple(precision.shape)
        if shapes != ((FEATURES,), (FEATURES, FEATURES)):
            raise _unusable(f"shapes {shapes[0]} and {shapes[1]} instead of {FEATURES} features")
        if not (mean.isfinite().all() and precision.isfinite().all() and math.isfinite(known.threshold)):
            raise _unusable("numbers that are not finite")
        return known


def _unusable(reason: str) -> CheckpointError:
    return CheckpointError(f"the calibration in the checkpoint's header is invalid ({reason}); calibrate it again")


def familiarity_of(extra: Mapping[str, Any]) -> Familiarity | None:
    """The calibration of a checkpoint, from `restain calibrate`; None without one.

    Args:
        extra: of its header, as in `CheckpointInfo` and `Model`.

    Raises:
        CheckpointError: the entry is invalid.
    """
    return Familiarity.from_json(extra["familiarity"]) if "familiarity" in extra else None


def block_features(he: Tensor) -> Tensor:
    """Features of blocks: mean and log spread of three colour axes of optical density, and log edges at two scales.

    Args:
        he: N x 3 x H x W in [0, 1].

    Returns:
        N x 10 x H/64 x W/64, float64.

    Raises:
        InputError: a side is shorter than a block.
    """
    if min(he.shape[-2:]) < BLOCK_PX:
        raise InputError(f"{he.shape[-1]} x {he.shape[-2]} px is smaller than a block of {BLOCK_PX} px")
    density = optical_density(he.clamp_min(1 / 255)).double()
    red, green, blue = density.unbind(1)
    axes = torch.stack([(red + green + blue) / 3, (red - green) / 2, (red + green) / 2 - blue], 1)
    mean = F.avg_pool2d(axes, BLOCK_PX)
    spread = (F.avg_pool2d(axes.square(), BLOCK_PX) - mean.square()).clamp_min(0).sqrt()
    darkness = axes[:, :1]
    fine, coarse = darkness, F.avg_pool2d(darkness, 4)
    edges = [_edges(fine, BLOCK_PX), _edges(coarse, BLOCK_PX // 4)]
    blues = [_edges(axes[:, 1:2], BLOCK_PX), _edges(F.avg_pool2d(axes[:, 1:2], 4), BLOCK_PX // 4)]
    return torch.cat([mean, *((part + 1e-3).log() for part in (spread, *edges, *blues))], 1)


def _edges(values: Tensor, block: int) -> Tensor:
    """Mean absolute difference of neighbours in each block."""
    right = F.pad((values[..., 1:] - values[..., :-1]).abs(), (0, 1))
    down = F.pad((values[..., 1:, :] - values[..., :-1, :]).abs(), (0, 0, 0, 1))
    return F.avg_pool2d(right + down, block)


def fit_familiarity(training: Iterable[Tensor], validation: Iterable[Tensor]) -> Familiarity:
    """Fit the Gaussian to training images and set its threshold on validation images.

    Args:
        training: H&E, N x 3 x H x W in [0, 1] each.
        validation: likewise, of other cases if possible. `USUAL` of their blocks are below the threshold.

    Raises:
        InputError: there are fewer than `LEAST_BLOCKS` blocks to fit, or no validation images.
    """
    rows = _rows(training)
    if len(rows) < LEAST_BLOCKS:
        raise InputError(f"{len(rows)} blocks of {BLOCK_PX} px are too few to fit; at least {LEAST_BLOCKS} are needed")
    covariance = torch.cov(rows.T)
    covariance = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * covariance.diagonal().clamp_min(1e-8).diag()
    fitted = Familiarity(rows.mean(0), torch.linalg.inv(covariance), threshold=0.0)
    distances = [fitted.distances(he).flatten() for he in validation]
    if not distances:
        raise InputError("there are no validation images, which set the threshold; give some")
    return Familiarity(fitted.mean, fitted.precision, torch.cat(distances).quantile(USUAL).item())


def _rows(images: Iterable[Tensor]) -> Tensor:
    blocks = [block_features(he).movedim(1, -1).flatten(0, 2) for he in images]
    return torch.cat(blocks) if blocks else torch.empty(0, 10, dtype=torch.float64)
