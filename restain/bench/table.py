"""The table over the results of all cells: means over seeds, their intervals, paired differences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student

from restain.bench.cell import RESULT, Cell, read_note
from restain.bench.floors import Floor
from restain.bench.rows import Budget, Row
from restain.errors import InputError
from restain.metrics.comparison import attributed
from restain.metrics.figure import rounded

COVERAGE = 0.95


@dataclass(frozen=True)
class Spread:
    """A quantity over seeds."""

    values: tuple[float, ...]
    """One per seed."""

    @property
    def mean(self) -> float:
        """Over the seeds; NaN without seeds."""
        return sum(self.values) / len(self.values) if self.values else math.nan

    @property
    def half_width(self) -> float:
        """Of Student's 95 % interval of the mean; NaN for fewer than two seeds."""
        number = len(self.values)
        if number < 2:
            return math.nan
        variance = sum((value - self.mean) ** 2 for value in self.values) / (number - 1)
        return float(student.ppf((1 + COVERAGE) / 2, number - 1)) * math.sqrt(variance / number)

    def words(self, sign: str = "") -> str:
        """`0.512 ± 0.031`."""
        if not self.values or math.isnan(self.mean):
            return "–"
        digits = 2 if abs(self.mean) >= 10 else 3
        spread = "" if math.isnan(self.half_width) else f" ± {rounded(self.half_width, digits)}"
        return rounded(self.mean, digits, sign) + spread


def heading(label: str, higher_is_better: bool | None, unit: str = "") -> str:
    """Title of a metric with its better direction, if it has one, and its unit: `PSNR ↑, dB`."""
    arrow = {True: " ↑", False: " ↓", None: ""}[higher_is_better]
    return f"{label}{arrow}" + (f", {unit}" if unit else "")


@dataclass(frozen=True)
class Column:
    """A metric."""

    label: str
    unit: str
    higher_is_better: bool
    fingerprint: str
    protocol: Mapping[str, Any]

    @property
    def heading(self) -> str:
        """Its label, better direction and unit."""
        return heading(self.label, self.higher_is_better, self.unit)


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    name: str
    seeds: tuple[int, ...]
    """The seeds with a result."""
    figures: Mapping[str, Spread]
    differences: Mapping[str, Spread]
    """To the reference, paired by seed; empty for the reference itself."""
    steps: Spread
    pairs: Spread
    seconds: Spread
    auxiliary_seconds: Spread
    peak_bytes: Spread

    def clearly(self, name: str, column: Column) -> str:
        """`better` or `worse` than the reference if the paired interval excludes 0, else empty."""
        difference = self.differences.get(name)
        if difference is None or not abs(difference.mean) > difference.half_width:
            return ""
        return "better" if (difference.mean > 0) == column.higher_is_better else "worse"


@dataclass(frozen=True)
class BenchTable:
    """All results of a bench."""

    reference: str
    budget: str
    columns: Mapping[str, Column]
    lines: tuple[Line, ...]
    floors: Mapping[str, Mapping[str, Spread]]
    """Figures of the untrained baselines by name; see `restain.bench.floors`."""
    tiles: int
    notes: tuple[str, ...]
    """What was left out and why."""


def collect(
    rows: Sequence[Row], cells: Sequence[Cell], floors: Sequence[Floor], reference: str, budget: Budget
) -> BenchTable:
    """Read the existing results.

    Raises:
        InputError: two of them have different protocols.
        OutputError: a result is damaged.
    """
    found = {(cell.row, cell.seed): read_note(cell.out / RESULT) for cell in cells if cell.done()}
    columns: dict[str, Column] = {}
    unstained = {floor.name: read_note(floor.out / RESULT) for floor in floors if floor.done()}
    for words, result in [(f"{row!r}, seed {seed}", found[row, seed]) for row, seed in found] + [*unstained.items()]:
        for name, figure in result["figures"].items():
            column = Column(**{key: figure[key] for key in Column.__dataclass_fields__})
            if columns.setdefault(name, column).fingerprint != column.fingerprint:
                raise InputError(
                    f"{column.label} of {words} has another protocol than in other rows; remove its result, so that it "
                    "is measured again"
                )
    of_row = {row.name: {seed: result for (name, seed), result in found.items() if name == row.name} for row in rows}
    lines = tuple(_line(row.name, of_row[row.name], of_row[reference], reference) for row in rows)
    notes = attributed({f"{row}, seed {seed}": result["left out"] for (row, seed), result in found.items()})
    tiles = next((int(column.protocol["tiles"]) for column in columns.values()), 0)
    ground = {
        words: {name: Spread((_value(result, name),)) for name in result["figures"]}
        for words, result in unstained.items()
    }
    return BenchTable(reference, budget.words, columns, lines, ground, tiles, tuple(notes))


def _value(result: Mapping[str, Any], figure: str) -> float:
    number = result["figures"].get(figure, {}).get("value")
    return math.nan if number is None else float(number)


def _gap(result: Mapping[str, Any], reference: Mapping[str, Any], figure: str) -> float:
    """Difference of a result to the reference; NaN if they lack values on different tiles."""
    first, second = (found["figures"].get(figure, {}).get("missing") for found in (result, reference))
    return _value(result, figure) - _value(reference, figure) if first == second else math.nan


def _line(name: str, results: Mapping[int, Any], references: Mapping[int, Any], reference: str) -> Line:
    names = dict.fromkeys(figure for result in results.values() for figure in result["figures"])
    both = [seed for seed in results if seed in references]

    def training(key: str) -> Spread:
        return Spread(tuple(float(result["training"][key]) for result in results.values()))

    differences = {
        figure: Spread(tuple(_gap(results[seed], references[seed], figure) for seed in both)) for figure in names
    }
    return Line(
        name,
        tuple(results),
        {figure: Spread(tuple(_value(result, figure) for result in results.values())) for figure in names},
        {} if name == reference else differences,
        training("steps"),
        training("pairs"),
        training("seconds"),
        Spread(tuple(float(result["auxiliary_seconds"]) for result in results.values())),
        training("peak_bytes"),
    )
