"""Grades: read from names, or quartiles of what the IHC shows."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from restain.data import grades
from restain.data.grades import grade_limits, grades_from_fractions, grades_from_names, measure_positive_fractions
from restain.data.partners import PairFiles
from restain.image import load_image

BROWN, WHITE = (120, 70, 30), (245, 245, 245)


def paint_ihc(path: Path, share: float) -> PairFiles:
    """A pair whose IHC is brown to the given share; its H&E does not exist, because it must not be read."""
    rgb = np.full((20, 20, 3), WHITE, dtype=np.uint8)
    rgb[: round(20 * share)] = BROWN
    Image.fromarray(rgb).save(path)
    return PairFiles(path.stem, path.with_name("unread.png"), path)


def test_names_of_bci_and_of_numbered_tiles_carry_grades() -> None:
    assert grades_from_names(["00820_test_2+", "00345_test_0", "24_13215-61369_1+", "x_0+", "7_3+"]) == [2, 0, 1, 0, 3]


@pytest.mark.parametrize(
    "names",
    [
        ["a_1+", "b"],  # one name without
        ["a_0", "b_0"],  # all end like a coordinate
        ["1024_0", "1024_512"],
        ["a_4+"],
        ["a_1"],
        ["a1+"],
        ["a_2+_aligned"],
    ],
)
def test_names_without_grades_carry_none(names: list[str]) -> None:
    assert grades_from_names(names) is None


@given(st.lists(st.floats(0, 1), min_size=4, max_size=60, unique=True))
def test_quartiles_give_four_grades_alike_often(fractions: list[float]) -> None:
    graded = grades_from_fractions(fractions, grade_limits(fractions))
    counts = [graded.count(grade) for grade in range(4)]
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_more_stain_is_never_a_lower_grade(train: list[float], held_out: list[float]) -> None:
    graded = grades_from_fractions(sorted(held_out), grade_limits(train))
    assert graded == sorted(graded)
    assert set(graded) <= {0, 1, 2, 3}


def test_tiles_without_stain_are_grade_0_however_many() -> None:
    fractions = [0.0] * 60 + [0.1, 0.2, 0.3, 0.4] * 10
    graded = grades_from_fractions(fractions, grade_limits(fractions))
    assert graded[:60] == [0] * 60
    assert min(graded[60:]) > 0


def test_the_share_of_brown_is_measured_in_order(tmp_path: Path) -> None:
    shares = [0.5, 0.0, 1.0, 0.25]
    files = [paint_ihc(tmp_path / f"{i}.png", share) for i, share in enumerate(shares)]
    assert measure_positive_fractions(files) == pytest.approx(shares)


def test_the_right_half_is_measured_where_one_file_shows_both(tmp_path: Path) -> None:
    both = np.full((20, 40, 3), WHITE, dtype=np.uint8)
    both[:5, 20:] = BROWN
    Image.fromarray(both).save(tmp_path / "both.png")
    files = PairFiles("both", tmp_path / "both.png", tmp_path / "both.png")
    assert measure_positive_fractions([files]) == pytest.approx([0.25])


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = paint_ihc(tmp_path / "ihc.png", 0.5)
    reads: list[Path] = []

    def count(path: Path) -> np.ndarray:
        reads.append(path)
        return load_image(path)

    monkeypatch.setattr("restain.data.partners.load_image", count)
    first = measure_positive_fractions([pair])
    assert measure_positive_fractions([pair]) == first
    assert reads == [pair.ihc]
    paint_ihc(pair.ihc, 1.0)
    assert measure_positive_fractions([pair]) == pytest.approx([1.0])


def test_there_are_four_words_for_four_grades() -> None:
    assert grades.GRADES == ("0", "1+", "2+", "3+")


def test_measured_grades_agree_with_the_names_of_real_tiles(shared: Path) -> None:
    folder = shared / "data" / "colon-panck"
    files = [PairFiles(path.stem, path, folder / "valB" / path.name) for path in sorted((folder / "valA").iterdir())]
    named = grades_from_names([pair.name for pair in files])
    fractions = measure_positive_fractions(files)
    assert named is not None
    for low in range(1, 3):
        weaker = [fraction for fraction, grade in zip(fractions, named, strict=True) if grade == low]
        stronger = [fraction for fraction, grade in zip(fractions, named, strict=True) if grade == low + 1]
        assert np.median(weaker) < np.median(stronger)
