"""Scores against their definitions, worked by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from restain.quantify.cells import membrane_intensity, nuclear_intensity
from restain.quantify.scores import allred, h_score, her2_score, ki67_index, positive_fraction

COUNTS = st.lists(st.integers(0, 500), min_size=4, max_size=4).filter(lambda counts: sum(counts) > 0)


def test_h_score_by_hand_and_at_its_ends() -> None:
    assert h_score((50, 20, 20, 10)) == pytest.approx(20 + 40 + 30)
    assert h_score((7, 0, 0, 0)) == 0
    assert h_score((0, 0, 0, 7)) == 300


@given(COUNTS)
def test_scores_depend_on_shares_alone(counts: list[int]) -> None:
    doubled = [2 * count for count in counts]
    assert h_score(doubled) == pytest.approx(h_score(counts))
    assert allred(doubled) == allred(counts)
    assert her2_score(doubled) == her2_score(counts)
    assert ki67_index(counts) == pytest.approx(100 * (1 - counts[0] / sum(counts)))


@pytest.mark.parametrize(
    ("positive", "proportion"),
    [(0, 0), (9, 1), (10, 2), (100, 2), (101, 3), (333, 3), (334, 4), (666, 4), (667, 5), (1000, 5)],
)
def test_allred_proportion_at_its_limits(positive: int, proportion: int) -> None:
    found = allred((1000 - positive, positive, 0, 0))
    assert found is not None
    assert found.proportion == proportion
    assert found.total == (proportion + 1 if positive else 0)


def test_allred_intensity_is_that_of_the_positive_cells() -> None:
    found = allred((90, 5, 0, 5))
    assert found is not None
    assert found == (2, 2)


@pytest.mark.parametrize(
    ("counts", "score"),
    [
        ((100, 0, 0, 0), 0),
        ((90, 10, 0, 0), 0),
        ((89, 11, 0, 0), 1),
        ((80, 10, 10, 0), 1),
        ((80, 9, 11, 0), 2),
        ((89, 0, 0, 11), 3),
    ],
)
def test_her2_needs_more_than_a_tenth_of_the_cells(counts: tuple[int, ...], score: int) -> None:
    assert her2_score(counts) == score


def test_without_cells_there_is_no_score() -> None:
    nothing = (0, 0, 0, 0)
    assert math.isnan(h_score(nothing))
    assert math.isnan(positive_fraction(nothing))
    assert allred(nothing) is None
    assert her2_score(nothing) is None


def test_classes_at_their_limits() -> None:
    assert nuclear_intensity(np.array([0, 0.19, 0.2, 0.39, 0.4, 0.6, 2], np.float32)).tolist() == [0, 0, 1, 1, 2, 3, 3]
    completeness = np.array([0, 0.1, 0.3, 0.3, 0.7, 0.7], np.float32)
    density = np.array([0, 0.9, 0.2, 0.9, 0.3, 0.6], np.float32)
    assert membrane_intensity(completeness, density).tolist() == [0, 0, 1, 1, 2, 3]
