"""Figures side by side as a table of text, and the paired difference of two methods."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

from restain.errors import InputError
from restain.metrics.evaluation import Evaluation
from restain.metrics.figure import Figure, rounded
from restain.metrics.tiles import PARTNERS

Verdict = Literal["better", "worse", "unclear"]

PIXELWISE = ("ssim_grey", "ssim_rgb", "ms_ssim", "psnr", "positive_dice", "positive_iou")
"""Figures that need registered images."""
CAUTION = (
    "SSIM, MS-SSIM, PSNR and the overlap of positive areas compare pixel by pixel. If the real IHC is a neighbouring"
    " section, no cell is at the same place and even the best possible virtual stain scores badly: use the amount"
    " of stain and the distribution metrics instead."
)
"""The caution shown with them."""

_SHARED = ("size", "resize", "format", "tiles", "interval", PARTNERS["real"])
"""Parts of a protocol that figures share; shown once for all figures that have the values of the first."""
_ARROWS = {True: " ↑", False: " ↓", None: ""}


@dataclass(frozen=True)
class ComparisonTable:
    """A table of text, for a terminal or a page."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str
    """The protocol that all figures share."""

    @property
    def widths(self) -> list[int]:
        """Of the columns, in characters."""
        return [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]

    @property
    def width(self) -> int:
        """Of a line, in characters."""
        return sum(self.widths) + 2 * (len(self.header) - 1)

    def without(self, name: str) -> "ComparisonTable":
        """The table without a column."""
        place = self.header.index(name)
        header, *rows = (row[:place] + row[place + 1 :] for row in (self.header, *self.rows))
        return replace(self, header=header, rows=tuple(rows))

    def __str__(self) -> str:
        widths = self.widths
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (self.header, tuple("─" * width for width in widths), *self.rows)
        ]
        return "\n".join([*lines, self.caption])


def tabulate(evaluations: Mapping[str, Evaluation]) -> ComparisonTable:
    """One row per metric, one column per evaluation, N and the protocol beside each figure.

    Two evaluations of the same tiles also get the paired difference, the second minus the first.

    Args:
        evaluations: by the title of the column.

    Raises:
        InputError: two figures of a row have different protocols, or an evaluation lacks a figure.
    """
    first, *others = evaluations.values()
    for other in others:
        _check_alike(first, other)
    protocol = next(iter(first.figures.values())).protocol
    shared = {key: protocol[key] for key in _SHARED}
    pair = len(others) == 1 and first.names == others[0].names
    rows = []
    for name, figure in first.figures.items():
        label = figure.label + _ARROWS[figure.higher_is_better] + (f", {figure.unit}" if figure.unit else "")
        cells = [words(evaluation.figures[name]) for evaluation in evaluations.values()]
        if pair:
            cells.append(words(difference(name, first, others[0])))
        tiles = tiles_in_words([evaluation.figures[name] for evaluation in evaluations.values()])
        rows.append((label, *cells, tiles, _own_protocol(figure, shared), figure.fingerprint))
    header = ("Metric", *evaluations, *(["Difference"] if pair else []), "N", "Protocol", "Fingerprint")
    caption = "Tiles of {size}, {format}, resize: none unless said. In brackets: {interval}.".format(**shared)
    caption += " ±: standard error."
    if pair:
        before, after = evaluations
        caption += f" Difference: {after} minus {before}, paired; none where different tiles lack a value."
    return ComparisonTable(header, tuple(rows), caption)


def difference(name: str, first: Evaluation, second: Evaluation) -> Figure:
    """Difference of a figure, second minus first, with the paired bootstrap interval.

    Each draw takes the same tiles of both. NaN if different tiles lack a value.

    Raises:
        InputError: they were not measured on the same tiles.
    """
    if first.names != second.names:
        raise InputError(
            f"{second.virtual} and {first.virtual} have different tiles, so they have no paired difference; evaluate"
            " both on their common tiles"
        )
    return second.figures[name].minus(first.figures[name])


def verdict(name: str, first: Evaluation, second: Evaluation) -> Verdict:
    """Whether the second is significantly better or worse than the first: its paired interval excludes 0.

    Also unclear if neither direction is better, or if different tiles lack a value.
    """
    gain = difference(name, first, second)
    if gain.higher_is_better is None:
        return "unclear"
    if not gain.higher_is_better:
        gain = replace(gain, low=-gain.high, high=-gain.low)
    if gain.low > 0:
        return "better"
    return "worse" if gain.high < 0 else "unclear"


def notes(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Notes on what was left out, each once, with the method's name if it does not apply to all."""
    return attributed({name: found.notes for name, found in evaluations.items()})


def attributed(notes: Mapping[str, Sequence[str]]) -> list[str]:
    """Each sentence once, with the names that it applies to unless it applies to all."""
    holders = {
        note: [name for name, own in notes.items() if note in own] for note in chain.from_iterable(notes.values())
    }
    return [note if len(names) == len(notes) else f"{', '.join(names)}: {note}" for note, names in holders.items()]


def tiles_in_words(figures: Sequence[Figure]) -> str:
    """Number of tiles in the figures of several methods: `12`, `11 of 12`, or `11, 12 of 12`."""
    whole, counts = str(figures[0].protocol["tiles"]), [str(figure.tiles) for figure in figures]
    if len(set(counts)) == 1:
        counts = counts[:1]
    return whole if counts == [whole] else f"{', '.join(counts)} of {whole}"


def words(figure: Figure) -> str:
    """`0.512 [0.480, 0.541]`, with ± the standard error where there is one; the value alone without an interval.

    Differences and biases always have a sign.
    """
    if math.isnan(figure.value):
        return "–"
    digits = 2 if abs(figure.value) >= 10 else 3
    sign = "+" if "difference" in figure.protocol or figure.higher_is_better is None else ""
    value, low, high = (rounded(number, digits, sign) for number in (figure.value, figure.low, figure.high))
    if not math.isnan(figure.standard_error):
        value += f" ± {rounded(figure.standard_error, digits)}"
    return value if math.isnan(figure.low) else f"{value} [{low}, {high}]"


def _own_protocol(figure: Figure, shared: Mapping[str, str | float]) -> str:
    own = (item for item in figure.protocol.items() if item[0] != "metric" and shared.get(item[0]) != item[1])
    return ", ".join(f"{key} {value}" for key, value in own)


def _check_alike(first: Evaluation, other: Evaluation) -> None:
    for one, two in ((first, other), (other, first)):
        if missing := [figure.label for name, figure in one.figures.items() if name not in two.figures]:
            raise InputError(
                f"{two.virtual} has no {missing[0]}, but {one.virtual} has; evaluate both with the same options"
            )
    for name, figure in first.figures.items():
        theirs = other.figures[name]
        if theirs.fingerprint != figure.fingerprint:
            differ = [key for key in figure.protocol if theirs.protocol.get(key) != figure.protocol[key]]
            if partner := next((partner for partner, images in PARTNERS.items() if images in differ), None):
                there, here = (getattr(found, partner) for found in (other, first))
                raise InputError(
                    f"{other.virtual} cannot be compared with {first.virtual}: they were measured against different"
                    f" {PARTNERS[partner]} ({there} and {here}); evaluate both against the same"
                )
            raise InputError(
                f"{figure.label} of {other.virtual} cannot be compared with that of {first.virtual}: they differ in"
                f" {', '.join(differ)}; evaluate both with the same options"
            )
