"""The feature sampler of PatchNCE (F in CUT, Park et al. 2020): the same places of two maps, through a small MLP."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from restain.networks.blocks import initialise
from restain.tensors import raised


class Sampler(nn.Module):
    """Per tap a two-layer MLP on features at sampled positions, L2-normalised."""

    def __init__(self, channels: Mapping[str, int], width: int = 256) -> None:
        """Build one MLP per tap; `channels` gives the number of channels at each tap."""
        super().__init__()
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
            sampled = features[tap].flatten(2)[:, :, positions[tap]].transpose(1, 2)
            projected[tap] = F.normalize(raised(mlp(sampled)), dim=-1)
        return projected


def sample_positions(features: Mapping[str, Tensor], generator: torch.Generator, count: int = 256) -> dict[str, Tensor]:
    """Draw at most `count` different places of each map (N x C x H x W): flat indices on the features' device."""
    positions = {}
    for tap, feature in features.items():
        places = feature.shape[2] * feature.shape[3]
        drawn = torch.randperm(places, generator=generator)[:count]
        positions[tap] = drawn.to(feature.device, non_blocking=True)
    return positions
