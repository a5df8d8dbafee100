"""How far a figure would move with other tiles: bootstrap percentile intervals (Efron 1979)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from restain.randomness import generator

DRAWS = 1000
COVERAGE = 0.95


def bootstrap(figure: Callable[..., Tensor], columns: Sequence[Tensor], draws: int = DRAWS, seed: int = 0) -> Tensor:
    """The figure of `draws` samples of the tiles, drawn with replacement.

    The samples depend on the seed and on the number of tiles alone, so two methods measured on the same tiles are drawn
    alike, and the difference of their draws is the paired one.

    Args:
        figure: the columns to a scalar.
        columns: the values of the tiles, N or N x k each.
        draws: how many samples.
        seed: of the samples.

    Returns:
        The figures, `draws`.
    """
    tiles = len(columns[0])
    samples = torch.randint(tiles, (draws, tiles), generator=generator(seed, "bootstrap", tiles))
    return torch.stack([figure(*(column[sample] for column in columns)) for sample in samples])


def interval(figures: Tensor, coverage: float = COVERAGE) -> tuple[float, float]:
    """The middle `coverage` of the figures, without those that are not finite; (nan, nan) where none is."""
    finite = figures[figures.isfinite()]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = finite.quantile(finite.new_tensor([(1 - coverage) / 2, (1 + coverage) / 2])).tolist()
    return low, high
