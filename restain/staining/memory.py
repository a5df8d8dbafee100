"""Bounds the memory of a pass of the network on a CPU."""

import math

from restain.networks.norm import instance_norms
from restain.networks.stainer import Stainer

PASS_BYTES = 1_200_000_000
"""What a pass on a CPU may take; with all that stays beside it, less than 2 GB."""

_TAKEN = {"tile": 40, "dense": 50}
"""Bytes for each px that a pass sees and each channel of the first convolution, float32; `benchmarks/slide_memory.py`
measures them. Networks whose norms are folded take the least."""
_TAKEN_FOLDED = 23


def most_px(network: Stainer, norm: str) -> int:
    """How many px a pass may see on a CPU, all windows of a batch together, under a norm policy or a file."""
    taken = _TAKEN.get(norm, _TAKEN_FOLDED) if instance_norms(network) else _TAKEN_FOLDED
    return PASS_BYTES // (taken * network.config.width)


def fitting_tile(tile_px: int, halo_px: int, most: int, multiple: int = 4) -> int:
    """Halve a tile until its window has at most `most` px; it stays a multiple of 16, of `multiple`, and positive."""
    step = math.lcm(16, multiple)
    while (tile_px + 2 * halo_px) ** 2 > most and tile_px >= 2 * step:
        tile_px = tile_px // 2 // step * step
    return tile_px
