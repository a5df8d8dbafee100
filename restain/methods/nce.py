"""PatchNCE between two images' features, the term that CUT and all its descendants share (Park et al. 2020, Eq. 4)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from restain.losses.contrastive import patch_nce
from restain.networks.sampler import Sampler

NCE_TAPS = ("input", "down1", "down2", "block0", "block4")
"""Where CUT reads the generator's encoder."""


def nce_channels(width: int) -> dict[str, int]:
    """Channels at `NCE_TAPS` of a generator of this width."""
    return dict(zip(NCE_TAPS, (3, 2 * width, 4 * width, 4 * width, 4 * width), strict=True))


def nce(
    sampler: Sampler,
    query: Mapping[str, Tensor],
    key: Mapping[str, Tensor],
    positions: Mapping[str, Tensor],
    temperature: float = 0.07,
) -> Tensor:
    """Mean over taps of PatchNCE between the features of the output and those of the input at the same places.

    The key side takes no gradient, neither in the generator nor in the sampler.
    """
    queries = sampler(query, positions)
    with torch.no_grad():
        keys = sampler(key, positions)
    return torch.stack([patch_nce(queries[tap], keys[tap], temperature) for tap in queries]).mean()
