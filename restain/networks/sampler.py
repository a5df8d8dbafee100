"""The feature sampler of PatchNCE (F in CUT, Park et al. 2020): the same positions of two maps, through an MLP."""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from restain.networks.blocks import initialise
from restain.tensors import raised

TINY = 1e-7
"""Keeps the length of a projection from being 0. The first projections are short: it is 1.5 % of PatchNCE there."""


class Sampler(nn.Module):
    """Per tap a two-layer MLP on features at sampled positions, L2-normalised."""

    def __init__(
        self, channels: Mapping[str, int], width: int = 256, *, tiny_on: Literal["length", "entries"] = "entries"
    ) -> None:
        """Build one MLP per tap.

        Args:
            channels: number of channels at each tap.
            width: of the projections.
            tiny_on: what 1e-7 is added to before a projection is divided by its length: the length, as in CUT, or each
                entry before the length is taken, as in ASP and what came after it.
        """
        super().__init__()
        self.tiny_on = tiny_on
        self.mlps = nn.ModuleDict(
            {
                tap: nn.Sequential(nn.Linear(count, width), nn.ReLU(), nn.Linear(width, width))
                for tap, count in channels.items()
            }
        )
        initialise(self)

    def forward(self, features: Mapping[str, Tensor], positions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Project the features at `positions`.

        Args:
            features: N x C x H x W per tap.
            positions: flat indices into H x W per tap, P; the same for all images, and for query and key.

        Returns:
            N x P x width per tap, rows of length 1.
        """
        projected = {}
        for tap, mlp in self.mlps.items():
            projected[tap] = self._normalised(raised(mlp(_at(features[tap], positions[tap]))))
        return projected

    def _normalised(self, projections: Tensor) -> Tensor:
        on_length = self.tiny_on == "length"
        entries = projections if on_length else projections + TINY
        length: Tensor = torch.linalg.vector_norm(entries, dim=-1, keepdim=True)
        return projections / (length + TINY if on_length else length)


def _at(features: Tensor, positions: Tensor) -> Tensor:
    """N x C x H x W at P flat positions: N x P x C; the gradient lies in memory as the features do."""
    if features.is_contiguous():
        return features.flatten(2)[:, :, positions].transpose(1, 2)
    return features.permute(0, 2, 3, 1).flatten(1, 2)[:, positions]


def sample_positions(features: Mapping[str, Tensor], generator: torch.Generator, count: int = 256) -> dict[str, Tensor]:
    """Draw at most `count` distinct positions of each map (N x C x H x W): flat indices on the features' device."""
    positions = {}
    for tap, feature in features.items():
        places = feature.shape[2] * feature.shape[3]
        drawn = torch.randperm(places, generator=generator)[:count]
        positions[tap] = drawn.to(feature.device, non_blocking=True)
    return positions
