import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from restain.registration.crop import largest_rectangle, middle_square, shared_rectangle, square_nearest_middle


def largest_by_loops(covered: NDArray[np.bool_]) -> int:
    height, width = covered.shape
    areas = [
        (bottom - top) * (right - left)
        for top in range(height)
        for bottom in range(top + 1, height + 1)
        for left in range(width)
        for right in range(left + 1, width + 1)
        if covered[top:bottom, left:right].all()
    ]
    return max(areas, default=0)


@given(st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=6))
def test_the_largest_rectangle_is_covered_and_none_is_larger(rows: list[list[bool]]) -> None:
    covered = np.array(rows)
    left, top, width, height = largest_rectangle(covered)
    assert covered[top : top + height, left : left + width].all()
    assert width * height == largest_by_loops(covered)


def test_the_shared_rectangle_is_covered_and_its_sides_are_multiples() -> None:
    covered = np.zeros((203, 150), bool)
    covered[13:180, 21:140] = True
    left, top, width, height = shared_rectangle(covered, 16)
    assert covered[top : top + height, left : left + width].all()
    assert (width % 16, height % 16) == (0, 0)
    assert width >= 119 - 8 - 16
    assert height >= 167 - 8 - 16


def test_the_square_nearest_to_the_middle_is_covered() -> None:
    covered = np.ones((40, 60), bool)
    assert square_nearest_middle(covered, 20) == (20, 10, 20, 20) == middle_square(60, 40, 20)
    covered[:15] = False
    assert square_nearest_middle(covered, 20) == (20, 15, 20, 20)
    assert square_nearest_middle(covered, 26) is None


@pytest.mark.parametrize("size_px", [41, 100])
def test_no_square_fits_that_is_larger_than_the_image(size_px: int) -> None:
    assert square_nearest_middle(np.ones((40, 60), bool), size_px) is None
    assert middle_square(60, 40, size_px) is None
