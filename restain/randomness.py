"""Random numbers that depend on their purpose, not on what was drawn before: one generator per purpose.

`generator(seed, "augment", epoch, index)` gives the same numbers in any process, on any worker and after any resume, so
no random state is ever saved, and the global generators are never touched.
"""

import json
from hashlib import blake2b

import torch


def derive_seed(seed: int, *keys: int | str) -> int:
    """Hash a seed and the keys of a purpose into one seed; the same on every machine and in every version.

    Args:
        seed: the seed of the run.
        *keys: the purpose of the numbers, such as `"augment", epoch, index`. Their order counts, and 1 is not `"1"`.

    Returns:
        An integer from 0 to 2^63 - 1.
    """
    words = [key if isinstance(key, str) else int(key) for key in (seed, *keys)]
    return int.from_bytes(blake2b(json.dumps(words).encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *keys: int | str) -> torch.Generator:
    """Create a CPU generator for one purpose. Draw on the CPU and move the numbers, so that every device sees the same.

    Torch's CPU generator keeps 32 bits of its seed: among 77,000 purposes, two share their numbers in every second run.
    """
    return torch.Generator().manual_seed(derive_seed(seed, *keys))
