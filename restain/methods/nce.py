"""PatchNCE between two images' features, the term that CUT and all its descendants share (Park et al. 2020, Eq. 4)."""

from collections.abc import Callable, Mapping
from functools import partial

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
    return mean_over_taps(partial(patch_nce, temperature=temperature), queries, keys)


def mean_over_taps(loss: Callable[..., Tensor], *embedded: Mapping[str, Tensor]) -> Tensor:
    """Mean of `loss` over taps, its arguments being what each of `embedded` holds there (from `Sampler`)."""
    return torch.stack([loss(*(each[tap] for each in embedded)) for tap in embedded[0]]).mean()
