"""A figure: one number over all tiles, with its uncertainty and protocol."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b

import torch
from torch import Tensor

from restain.metrics.interval import interval


@dataclass(frozen=True)
class Figure:
    """One number over all tiles, with its uncertainty and protocol."""

    value: float
    low: float
    """Lower end of the bootstrap interval; NaN for a single tile."""
    high: float
    protocol: Mapping[str, str | float]
    """Everything besides the pixels that determines the value."""
    label: str
    """Title of its row in a table."""
    unit: str = ""
    higher_is_better: bool | None = True
    """None if neither is, as for a bias, whose best value is 0."""
    standard_error: float = math.nan
    """Of the value, if the metric defines one; otherwise NaN."""
    missing: tuple[int, ...] = ()
    """Indices of tiles without a value, such as those without cells; they are left out."""
    draws: Tensor = field(default_factory=lambda: torch.empty(0), repr=False, compare=False)
    """The figure of each bootstrap sample. Two evaluations of the same tiles draw the same samples."""

    @property
    def fingerprint(self) -> str:
        """Eight characters that two figures share only if their protocols are equal."""
        words = json.dumps(dict(self.protocol), sort_keys=True, ensure_ascii=False)
        return blake2b(words.encode(), digest_size=4).hexdigest()

    @property
    def tiles(self) -> int:
        """Number of tiles with a value."""
        return int(self.protocol["tiles"]) - len(self.missing)

    def minus(self, other: "Figure") -> "Figure":
        """Difference to another figure on the same tiles, this minus the other, with the paired interval.

        NaN if the two lack values on different tiles; otherwise leaving hard tiles blank would raise the score. The
        interval is NaN where that of either is, as for a single tile or case.
        """
        same = 0.0 if self.missing == other.missing else math.nan
        draws = self.draws - other.draws + same
        known = not (math.isnan(self.low) or math.isnan(other.low))
        low, high = interval(draws) if known else (math.nan, math.nan)
        return replace(
            self,
            value=self.value - other.value + same,
            low=low,
            high=high,
            standard_error=math.nan,
            draws=draws,
            protocol={**self.protocol, "difference": "second minus first, paired"},
        )

    def as_json(self) -> dict[str, object]:
        """Everything but the draws; values that are not finite become null."""
        return {
            "label": self.label,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "value": finite(self.value),
            "interval": [finite(self.low), finite(self.high)],
            **({} if math.isnan(self.standard_error) else {"standard_error": self.standard_error}),
            "tiles": self.tiles,
            "missing": list(self.missing),
            "fingerprint": self.fingerprint,
            "protocol": dict(self.protocol),
        }


def rounded(value: float, digits: int, sign: str = "") -> str:
    """Format a number with a true minus sign, and without one before zero.

    Args:
        value: the number.
        digits: after the decimal point.
        sign: `+` to write it before positive numbers too.
    """
    return f"{value:{sign}z.{digits}f}".replace("-", "−")


def finite(value: float) -> float | None:
    """The value, or None where it is infinite or not a number."""
    return value if math.isfinite(value) else None
