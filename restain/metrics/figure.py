"""A figure: one number about all tiles, with how sure it is and how it was made."""

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
    """One number about all tiles, with how sure it is and how it was made."""

    value: float
    low: float
    """Lower end of the bootstrap interval; not a number for a single tile."""
    high: float
    protocol: Mapping[str, str | float]
    """Everything that decides the value besides the pixels."""
    label: str
    """As a table's row says it."""
    unit: str = ""
    higher_is_better: bool | None = True
    """None where neither is, as of a bias, whose best is 0."""
    standard_error: float = math.nan
    """Of the value, where the metric has one of its own; not a number otherwise."""
    missing: tuple[int, ...] = ()
    """Places of the tiles that have no value and do not count, such as those without cells."""
    draws: Tensor = field(default_factory=lambda: torch.empty(0), repr=False, compare=False)
    """The figure of each bootstrap sample. Two evaluations of the same tiles draw the same samples."""

    @property
    def fingerprint(self) -> str:
        """Eight letters that two figures share only if they were made in the same way."""
        words = json.dumps(dict(self.protocol), sort_keys=True, ensure_ascii=False)
        return blake2b(words.encode(), digest_size=4).hexdigest()

    @property
    def tiles(self) -> int:
        """How many tiles count."""
        return int(self.protocol["tiles"]) - len(self.missing)

    def minus(self, other: "Figure") -> "Figure":
        """By how much this exceeds the other, which was measured on the same tiles, with the paired interval.

        Not a number where other tiles count: who erases what is hard to stain would look better for it.
        """
        same = 0.0 if self.missing == other.missing else math.nan
        draws = self.draws - other.draws + same
        low, high = interval(draws)
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
        """Everything but the draws; what is not finite becomes null."""
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
    """A number in words, with a minus that is one, and none before a zero.

    Args:
        value: the number.
        digits: behind the point.
        sign: `+` to write it before positive numbers too.
    """
    return f"{value:{sign}z.{digits}f}".replace("-", "−")


def finite(value: float) -> float | None:
    """The value, or None where it is infinite or not a number."""
    return value if math.isfinite(value) else None
