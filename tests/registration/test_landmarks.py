"""Landmarks in the files of two challenges, and the error that they show."""

from pathlib import Path

import numpy as np
import pytest

from restain.errors import InputError
from restain.registration.field import Affine
from restain.registration.landmarks import Landmarks, landmark_error, read_landmarks, write_acrobat, write_anhir
from restain.registration.transform import Scan, Transform

HE, IHC = Scan("7_HE.svs", (3000, 4000), 0.5), Scan("7_KI67.svs", (6000, 8000), 0.25)
PLACES = Landmarks(
    np.array([[10.0, 20.0], [500.0, 700.0], [5.5, 900.0]]), np.array([[13.0, 24.0], [500.0, 700.0], [5.5, 910.0]])
)


def test_the_error_by_hand() -> None:
    found = landmark_error(Transform(HE, IHC, Affine.identity()), PLACES)
    np.testing.assert_allclose(found.um, [5, 0, 10])
    assert found.median_um == 5
    assert found.high_um == pytest.approx(9)
    np.testing.assert_allclose(found.relative * 2500, found.um)  # the diagonal of 1500 x 2000 µm
    # and in px, as ANHIR counts
    np.testing.assert_allclose(found.relative, found.um / IHC.mpp / np.hypot(*IHC.size))
    assert found.median_relative == pytest.approx(0.002)


def test_both_forms_give_back_what_was_written(tmp_path: Path) -> None:
    first, second, both = tmp_path / "he.csv", tmp_path / "ihc.csv", tmp_path / "acrobat.csv"
    write_anhir(first, PLACES.he, HE)
    write_anhir(second, PLACES.ihc, IHC)
    write_acrobat(both, PLACES, HE, IHC, "KI67")
    for files in ([first, second], [both]):
        found = read_landmarks(files, HE, IHC)
        np.testing.assert_allclose(found.he, PLACES.he)
        np.testing.assert_allclose(found.ihc, PLACES.ihc)


def test_anhir_counts_in_pixels(tmp_path: Path) -> None:
    files = tmp_path / "a.csv", tmp_path / "b.csv"
    files[0].write_text(",X,Y\n1,100,200\n2,0,4\n", encoding="utf-8")
    files[1].write_text("X,Y\n400.0,8.5e2\n1,2\n", encoding="utf-8")
    found = read_landmarks(files, HE, IHC)
    np.testing.assert_allclose(found.he, [[50, 100], [0, 2]])
    np.testing.assert_allclose(found.ihc, [[100, 212.5], [0.25, 0.5]])


def test_of_acrobat_the_lines_of_these_slides_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(
        "anon_id,anon_filename_he,anon_filename_ihc,point_id,ihc_x,ihc_y,he_x,he_y\n"
        "6,6_HE.ndpi,6_ER.ndpi,0,1,2,3,4\n"
        "7,7_HE.ndpi,7_KI67.ndpi,0,5,6,7,8\n",
        encoding="utf-8",
    )
    found = read_landmarks([path], HE, IHC)
    np.testing.assert_allclose(found.he, [[7, 8]])
    np.testing.assert_allclose(found.ihc, [[5, 6]])
    with pytest.raises(InputError, match="no landmarks of 8_HE"):
        read_landmarks([path], Scan("8_HE.svs", (1, 1), 1.0), IHC)


def test_dots_belong_to_the_names_of_slides(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text(
        "anon_filename_he,anon_filename_ihc,ihc_x,ihc_y,he_x,he_y\n"
        "S24.101.ndpi,S24.101-er.ndpi,1,2,3,4\nS24.102.ndpi,S24.102-er.ndpi,5,6,7,8\n",
        encoding="utf-8",
    )
    he, ihc = Scan("S24.102.ome.tif", (1, 1), 1.0), Scan("S24.102-er.ndpi.tif", (1, 1), 1.0)
    np.testing.assert_allclose(read_landmarks([path], he, ihc).he, [[7, 8]])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["X,Y\n1,2\n", "X,Y\n1,2\n3,4\n"], "holds 1 landmarks"),
        (["X,Y\n1,two\n", "X,Y\n1,2\n"], "numbers in X, Y"),
        (["X,Z\n1,2\n", "X,Y\n1,2\n"], "no column Y"),
        (["X,Y\n", "X,Y\n1,2\n"], "no landmarks"),
        (["he_x,he_y,ihc_x,ihc_y\n,,1,2\n"], "he_x, he_y are empty"),
        (["X,Y\n1,2\n"], "no column he_x"),
        (["X,Y\n1,nan\n", "X,Y\n1,2\n"], "finite"),
        (["", "", ""], "3 files"),
    ],
)
def test_damaged_landmarks_are_refused(tmp_path: Path, texts: list[str], message: str) -> None:
    files = [tmp_path / f"{number}.csv" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_landmarks(files, HE, IHC)
