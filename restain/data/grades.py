"""Grades 0, 1+, 2+, 3+ of pairs: from a list or from names, otherwise from the amount of DAB in the IHC."""

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from restain.data.partners import PairFiles
from restain.image import to_tensor
from restain.stains import positive_area_fraction, to_unit

GRADES = ("0", "1+", "2+", "3+")
"""Their names; a grade is an index of these."""

UNKNOWN = -1
"""The grade of a pair if grades are not used."""

_GRADED_NAME = re.compile(r"_(0\+?|[123]\+)$")

_QUARTILES = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)

_logger = logging.getLogger(__name__)


def grades_from_list(files: Sequence[PairFiles]) -> list[int] | None:
    """The grades that a list of pairs gives; None unless it gives every one."""
    grades = [pair.grade for pair in files if pair.grade is not None]
    return grades if len(grades) == len(files) else None


def grades_from_names(names: Sequence[str]) -> list[int] | None:
    """The grade at the end of each name, as in BCI's `00820_test_2+`; None unless every name has one.

    If all names end in `_0`, they are ungraded: coordinates and frame numbers end like that.
    """
    matches = [_GRADED_NAME.search(name) for name in names]
    words = [match.group(1) for match in matches if match]
    if len(words) < len(names) or set(words) == {"0"}:
        return None
    return [int(word[0]) for word in words]


def measure_positive_fractions(files: Sequence[PairFiles]) -> list[float]:
    """The share of each real IHC that is DAB-positive, 0 to 1.

    Reads every IHC image once; a process does not read unchanged files again.
    """
    _logger.info("measuring the DAB of %d IHC images, because their names carry no grades", len(files))
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda pair: _positive_fraction(pair, pair.ihc.stat().st_mtime_ns), files))


def grade_limits(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Limits between the four grades: the quartiles of the training split's positive fractions.

    VSMT's published recipe reuses classifiers trained on the grades of another data set; these need no other data.
    """
    low, middle, high = torch.tensor(fractions, dtype=torch.float64).quantile(_QUARTILES).tolist()
    return low, middle, high


def grades_from_fractions(fractions: Sequence[float], limits: tuple[float, float, float]) -> list[int]:
    """The number of limits that each positive fraction exceeds, 0 to 3."""
    return [sum(fraction > limit for limit in limits) for fraction in fractions]


@cache
def _positive_fraction(pair: PairFiles, modified_ns: int) -> float:  # noqa: ARG001  # part of the cache's key
    return float(positive_area_fraction(to_unit(to_tensor(pair.load_ihc()))))
