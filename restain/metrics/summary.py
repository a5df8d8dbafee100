"""From values and features of tiles to figures: the number, its interval, its protocol."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from restain.metrics.distribution import frechet_distance, frechet_draws, kernel_distance, kernel_draws
from restain.metrics.features import Extractor
from restain.metrics.figure import Figure
from restain.metrics.interval import COVERAGE, DRAWS, bootstrap, counts, interval, samples
from restain.metrics.judges import Preset
from restain.metrics.registry import Metric
from restain.randomness import generator

SEED = 0
"""Of the bootstrap and of KID's subsets."""
SMALLEST_SET = 4
"""Fewest tiles for FID and KID; KID's subsets then have two."""
_KID_SCALE = 1000


@dataclass(frozen=True)
class Sampling:
    """How tiles are resampled, the same for every figure."""

    tiles: int
    cases: tuple[str, ...] | None = None
    """The case of each tile, where known; then whole cases are drawn."""

    @property
    def units(self) -> int:
        """Number of units that are drawn; a single one gives no interval."""
        return len(set(self.cases)) if self.cases else self.tiles

    @property
    def words(self) -> str:
        """Text for the protocol."""
        over = f"{self.units} cases" if self.cases else "tiles"
        return f"{COVERAGE:.0%} bootstrap over {over}, {DRAWS} draws, seed {SEED}"

    @cached_property
    def drawn(self) -> list[Tensor]:
        """The indices of each draw."""
        return samples(self.tiles, DRAWS, SEED, self.cases)

    @cached_property
    def counts(self) -> Tensor:
        """How often each draw contains each tile."""
        return counts(self.drawn, self.tiles)

    def ends(self, draws: Tensor) -> tuple[float, float]:
        """The interval of a figure's draws; NaN for a single unit."""
        return interval(draws) if self.units > 1 else (math.nan, math.nan)


def tile_figure(
    name: str,
    metric: Metric,
    columns: Mapping[str, Tensor],
    sampling: Sampling,
    common: Mapping[str, str | float],
) -> Figure:
    """The figure of a metric that measures tile by tile; `common` is the part of the protocol that figures share."""
    values = [columns[column] for column in metric.columns]
    draws = bootstrap(metric.figure, values, sampling.drawn)
    missing = torch.stack(values).isnan().any(0).nonzero().flatten().tolist()
    return Figure(
        metric.figure(*values).item(),
        *sampling.ends(draws),
        {"metric": name, **metric.protocol, **common},
        metric.label,
        metric.unit,
        metric.higher_is_better,
        missing=tuple(missing),
        draws=draws,
    )


def set_figures(
    extractor: Extractor,
    virtual: Tensor,
    real: Tensor,
    preset: Preset,
    sampling: Sampling,
    common: Mapping[str, str | float],
) -> dict[str, Figure]:
    """FID and KID of two feature matrices of an extractor, tiles x D each, named after it unless it is Inception."""
    suffix = f", {extractor.name}" if extractor.name else ""
    key = extractor.key
    shared = {**common, **extractor.protocol}
    fid_draws = frechet_draws(virtual, real, sampling.counts)
    fid = Figure(
        frechet_distance(virtual, real).item(),
        *sampling.ends(fid_draws),
        {"metric": f"fid{key}", **shared, "spread": "to first order"},
        f"FID{suffix}",
        higher_is_better=False,
        draws=fid_draws,
    )
    size = preset.subset_size or min(100, sampling.tiles // 2)
    kid_value = kernel_distance(virtual, real, preset.subsets, size, generator(SEED, "kid"))
    kid_draws = kernel_draws(kid_value, virtual, real, sampling.counts) * _KID_SCALE
    kid = Figure(
        kid_value.item() * _KID_SCALE,
        *sampling.ends(kid_draws),
        {
            "metric": f"kid{key}",
            **shared,
            "kernel": "(xᵀy/D + 1)³",
            "subsets": f"{preset.subsets} of {size}, seed {SEED}",
            "spread": "to first order",
        },
        f"KID{suffix}",
        unit="×1000",
        higher_is_better=False,
        standard_error=kid_draws.std().item() if sampling.units > 1 else math.nan,
        draws=kid_draws,
    )
    return {f"fid{key}": fid, f"kid{key}": kid}
