"""Uncertainty of a figure over the choice of tiles: bootstrap percentile intervals (Efron 1979).

Tiles of one patient resemble each other. If the case of each tile is known, whole cases are drawn.
"""

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from restain.randomness import generator

DRAWS = 1000
COVERAGE = 0.95


def samples(tiles: int, draws: int = DRAWS, seed: int = 0, cases: Sequence[Hashable] | None = None) -> list[Tensor]:
    """Draw samples of the tiles, with replacement.

    They depend on these arguments only, so two methods on the same tiles get the same draws, and the differences of
    their draws are paired.

    Args:
        tiles: how many there are.
        draws: how many samples.
        seed: of the samples.
        cases: the case of each tile; then cases are drawn, as many as there are, each with all its tiles.

    Returns:
        Indices of tiles for each draw; without cases, as many as there are tiles.
    """
    if cases is None:
        return list(torch.randint(tiles, (draws, tiles), generator=generator(seed, "bootstrap", tiles)))
    members: dict[Hashable, list[int]] = {}
    for index, case in enumerate(cases):
        members.setdefault(case, []).append(index)
    groups = [torch.tensor(group) for group in members.values()]
    drawn = torch.randint(len(groups), (draws, len(groups)), generator=generator(seed, "bootstrap", tiles))
    return [torch.cat([groups[case] for case in draw]) for draw in drawn.tolist()]


def counts(drawn: Sequence[Tensor], tiles: int) -> Tensor:
    """How often each sample contains each tile, draws x tiles, int16."""
    return torch.stack([sample.bincount(minlength=tiles).to(torch.int16) for sample in drawn])


def bootstrap(figure: Callable[..., Tensor], columns: Sequence[Tensor], drawn: Sequence[Tensor]) -> Tensor:
    """The figure of each sample of the tiles.

    Args:
        figure: the columns to a scalar.
        columns: the values of the tiles, N or N x k each.
        drawn: indices of tiles, as `samples` draws them.

    Returns:
        The figures, one per sample.
    """
    return torch.stack([figure(*(column[sample] for column in columns)) for sample in drawn])


def interval(figures: Tensor, coverage: float = COVERAGE) -> tuple[float, float]:
    """The central `coverage` of the figures of samples.

    Some samples may have no figure, such as the correlation of a single tile drawn repeatedly. If more than 1 -
    `coverage` of them have none, the interval is undefined: (nan, nan).
    """
    finite = figures[figures.isfinite()]
    if len(finite) < coverage * len(figures) or not len(finite):
        return float("nan"), float("nan")
    low, high = finite.quantile(finite.new_tensor([(1 - coverage) / 2, (1 + coverage) / 2])).tolist()
    return low, high
