"""Layouts: each is found by itself, read from the right folders, and what does not fit is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from restain.data.layouts import WHOLE, find_layout
from restain.data.partners import PairFiles, pair_files
from restain.errors import InputError, MissingError

WriteTile = Callable[..., np.ndarray]

KNOWN = {
    "MIST": ("MIST", {"train": ("trainA", "trainB"), "val": ("valA", "valB")}),
    "MIST with its parent": (
        "MIST",
        {"train": ("TrainValAB/trainA", "TrainValAB/trainB"), "val": ("TrainValAB/valA", "TrainValAB/valB")},
    ),
    "MIST's folders, held-out side called test": ("MIST", {"train": ("trainA", "trainB"), "test": ("testA", "testB")}),
    "BCI": ("BCI", {"train": ("HE/train", "IHC/train"), "test": ("HE/test", "IHC/test")}),
    "BCI, other letter case": ("BCI", {"train": ("he/Train", "Ihc/train"), "val": ("he/VAL", "Ihc/val")}),
    "plain": ("plain", {WHOLE: ("he", "ihc")}),
    "plain, other letter case": ("plain", {WHOLE: ("HE", "Ihc")}),
    "plain with parts": ("plain", {"train": ("train/HE", "train/IHC"), "val": ("val/he", "val/ihc")}),
    "side by side": ("side-by-side", {WHOLE: (".", ".")}),
    "side by side with parts": ("side-by-side", {"train": ("train", "train"), "test": ("test", "test")}),
}


def build(root: Path, folders: dict[str, tuple[str, str]], write_tile: WriteTile) -> None:
    for he, ihc in folders.values():
        for side in {he, ihc}:
            write_tile(root / side / "tile.png", size=(32, 16) if he == ihc else (16, 16))


@pytest.mark.parametrize("case", KNOWN)
def test_each_layout_is_found(tmp_path: Path, write_tile: WriteTile, case: str) -> None:
    name, folders = KNOWN[case]
    build(tmp_path, folders, write_tile)
    layout = find_layout(tmp_path)
    assert layout.name == name
    assert layout.folders == {part: (tmp_path / he, tmp_path / ihc) for part, (he, ihc) in folders.items()}


def test_the_truth_beside_a_data_set_is_never_looked_at(tmp_path: Path, write_tile: WriteTile) -> None:
    build(tmp_path, KNOWN["MIST"][1], write_tile)
    before = find_layout(tmp_path)
    for extra in ("trainB_aligned", "valB_aligned", "cells", "displacement", "train", "he"):
        write_tile(tmp_path / extra / "tile.png")
    assert find_layout(tmp_path) == before


def test_held_out_has_two_names(tmp_path: Path, write_tile: WriteTile) -> None:
    build(tmp_path, KNOWN["BCI"][1], write_tile)
    layout = find_layout(tmp_path)
    assert [layout.part("train"), layout.part("val"), layout.part("test")] == ["train", "test", "test"]


def test_a_data_set_with_both_held_out_parts_keeps_them_apart(tmp_path: Path, write_tile: WriteTile) -> None:
    build(tmp_path, {part: (f"{part}A", f"{part}B") for part in ("train", "val", "test")}, write_tile)
    layout = find_layout(tmp_path)
    assert [layout.part("train"), layout.part("val"), layout.part("test")] == ["train", "val", "test"]


def test_a_data_set_without_parts_is_whole_in_every_split(tmp_path: Path, write_tile: WriteTile) -> None:
    build(tmp_path, KNOWN["plain"][1], write_tile)
    layout = find_layout(tmp_path)
    assert {layout.part("train"), layout.part("val"), layout.part("test")} == {WHOLE}


def test_a_missing_part_is_named(tmp_path: Path, write_tile: WriteTile) -> None:
    build(tmp_path, {"val": ("valA", "valB")}, write_tile)
    with pytest.raises(InputError, match=r"\(MIST layout\) has no train part; found val"):
        find_layout(tmp_path).part("train")


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ("trainA", "trainB"),
        ("TrainValAB/valB", "TrainValAB/valA"),
        ("HE/train", "IHC/train"),
        ("ihc", "he"),
        ("train/he", "train/ihc"),
    ],
)
def test_a_missing_side_is_named(tmp_path: Path, write_tile: WriteTile, there: str, missing: str) -> None:
    write_tile(tmp_path / there / "tile.png")
    with pytest.raises(InputError, match=rf"{there} exists but .*{missing} does not"):
        find_layout(tmp_path)


def test_a_folder_that_fits_nothing_says_what_it_holds_and_what_would_fit(tmp_path: Path) -> None:
    for name in ("HER2", "Ki67"):
        (tmp_path / name).mkdir()
    with pytest.raises(
        InputError, match=r"found folders HER2, Ki67; known layouts: .*MIST .* BCI .* plain .* side-by-side"
    ):
        find_layout(tmp_path)


def test_an_empty_folder_a_file_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no folders and no images"):
        find_layout(tmp_path / "empty")
    with pytest.raises(InputError, match="is a file"):
        find_layout(tmp_path / "file")
    with pytest.raises(MissingError, match="gone does not exist"):
        find_layout(tmp_path / "gone")


def test_files_pair_by_stem_whatever_their_ending(tmp_path: Path, write_tile: WriteTile) -> None:
    for name in ("b_2+.png", "a_0.jpg"):
        write_tile(tmp_path / "he" / name)
    for name in ("a_0.tif", "b_2+.png"):
        write_tile(tmp_path / "ihc" / name)
    (tmp_path / "he" / "notes.txt").touch()
    pairs = pair_files(tmp_path / "he", tmp_path / "ihc")
    assert [(pair.name, pair.he.name, pair.ihc.name) for pair in pairs] == [
        ("a_0", "a_0.jpg", "a_0.tif"),
        ("b_2+", "b_2+.png", "b_2+.png"),
    ]


def test_missing_partners_are_named_on_both_sides(tmp_path: Path, write_tile: WriteTile) -> None:
    for name in "abcdefg":
        write_tile(tmp_path / "he" / f"{name}.png")
    for name in "gh":
        write_tile(tmp_path / "ihc" / f"{name}.png")
    with pytest.raises(InputError, match=r"no partner .*he/a.png, .*he/e.png and 2 more"):
        pair_files(tmp_path / "he", tmp_path / "ihc")
    for name in "abcdef":
        write_tile(tmp_path / "ihc" / f"{name}.png")
    with pytest.raises(InputError, match=r"no partner of the same name for \S*ihc/h.png;"):
        pair_files(tmp_path / "he", tmp_path / "ihc")


def test_two_files_of_one_name_are_refused(tmp_path: Path, write_tile: WriteTile) -> None:
    for path in ("he/a.png", "he/a.jpg", "ihc/a.png"):
        write_tile(tmp_path / path)
    with pytest.raises(InputError, match=r"he/a.jpg and .*he/a.png share a name"):
        pair_files(tmp_path / "he", tmp_path / "ihc")


def test_a_folder_without_images_is_named(tmp_path: Path, write_tile: WriteTile) -> None:
    write_tile(tmp_path / "he" / "a.png")
    (tmp_path / "ihc").mkdir()
    with pytest.raises(InputError, match=r"ihc holds no images; expected .*\.bmp"):
        pair_files(tmp_path / "he", tmp_path / "ihc")


def test_sides_of_different_size_are_named(tmp_path: Path, write_tile: WriteTile) -> None:
    write_tile(tmp_path / "he.png", size=(16, 24))
    write_tile(tmp_path / "ihc.png", size=(24, 16))
    with pytest.raises(InputError, match=r"he.png is 16 x 24 px but .*ihc.png is 24 x 16 px"):
        PairFiles("a", tmp_path / "he.png", tmp_path / "ihc.png").size()


def test_a_tile_on_its_own_is_not_taken_for_two_halves(tmp_path: Path, write_tile: WriteTile) -> None:
    write_tile(tmp_path / "tile.png", size=(16, 16))
    with pytest.raises(
        InputError, match=r"tile.png is 16 x 16 px; without he and ihc folders .* twice as wide as high"
    ):
        PairFiles("a", tmp_path / "tile.png", tmp_path / "tile.png").size()


def test_halves_are_the_left_and_the_right(tmp_path: Path, write_tile: WriteTile) -> None:
    rgb = write_tile(tmp_path / "tile.png", size=(32, 16))
    files = PairFiles("a", tmp_path / "tile.png", tmp_path / "tile.png")
    he, ihc = files.load()
    assert files.size() == (16, 16)
    assert (he == rgb[:, :16]).all()
    assert (ihc == rgb[:, 16:]).all()
    assert (files.load_ihc() == ihc).all()
