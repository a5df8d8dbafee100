"""A CSV file of pairs: what it lists is what is read, whoever wrote it, and each fault is named with its line."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from restain.data.cases import cases_by_list
from restain.data.layouts import WHOLE, find_layout
from restain.data.pairs import PairedTiles
from restain.data.pairs_csv import read_pairs
from restain.errors import InputError, MissingError

WriteTile = Callable[..., np.ndarray]

NAMES = ("S24.101_1.png", "S24.102_1.png", "a, b.png", "Größe 3.png")


@pytest.fixture
def tiles(tmp_path: Path, write_tile: WriteTile) -> Path:
    """H&E and IHC tiles under names that do not agree."""
    for name in NAMES:
        write_tile(tmp_path / "stained" / name)
        write_tile(tmp_path / "her2" / f"ihc of {name}")
    return tmp_path


def quoted(name: str, delimiter: str = ",") -> str:
    return f'"{name}"' if delimiter in name else name


def table(names: tuple[str, ...] = NAMES, delimiter: str = ",", header: str = "he,ihc,split") -> str:
    lines = [header.replace(",", delimiter)]
    for place, name in enumerate(names):
        files = (quoted(f"stained/{name}", delimiter), quoted(f"her2/ihc of {name}", delimiter))
        lines.append(delimiter.join((*files, "val" if place == 1 else "train")))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pairs_are_those_listed_whatever_program_saved_the_file(
    tiles: Path, delimiter: str, mark: str, end: str
) -> None:
    (tiles / "list.csv").write_bytes((mark + table(delimiter=delimiter).replace("\n", end)).encode())
    layout = find_layout(tiles / "list.csv")
    assert layout.parts == ("train", "val")
    assert [pair.name for pair in layout.pairs("train")] == ["Größe 3", "S24.101_1", "a, b"]
    assert [(pair.he, pair.ihc) for pair in layout.pairs("val")] == [
        (tiles / "stained" / NAMES[1], tiles / "her2" / f"ihc of {NAMES[1]}")
    ]


def test_a_folder_with_a_list_is_read_by_it(tiles: Path, write_tile: WriteTile) -> None:
    for side in ("trainA", "trainB"):
        write_tile(tiles / side / "other.png")
    assert find_layout(tiles).name == "MIST"
    (tiles / "pairs.csv").write_text(table(), encoding="utf-8")
    listed = PairedTiles(tiles, "val", grades="none")
    assert listed.names == ["S24.102_1"]
    assert (listed[0].he == PairedTiles(tiles / "pairs.csv", "test", grades="none")[0].he).all()


def test_rows_without_a_split_are_one_whole_set(tiles: Path) -> None:
    (tiles / "pairs.csv").write_text("IHC, HE\nher2/ihc of S24.101_1.png, stained/S24.101_1.png\n\n")
    layout = find_layout(tiles)
    assert {layout.part("train"), layout.part("val")} == {WHOLE}
    assert layout.pairs(WHOLE)[0].he.parent.name == "stained"


def test_further_columns_are_named_and_not_read(tiles: Path) -> None:
    (tiles / "pairs.csv").write_text("he,residual_px,ihc,note\nstained/S24.101_1.png,3,her2/ihc of S24.101_1.png,x\n")
    words = PairedTiles(tiles, grades="none").describe()
    assert "residual_px" in words
    assert "note" in words


def test_grades_and_cases_come_from_the_list(tiles: Path) -> None:
    rows = [
        f"stained/{name},her2/ihc of {name},{case},{grade}"
        for name, case, grade in zip(NAMES[:2], ("p1", "p2"), ("3+", "0"), strict=True)
    ]
    (tiles / "pairs.csv").write_text("\n".join(["he,ihc,case,grade", *rows]))
    pairs = PairedTiles(tiles)
    assert pairs.grades == [3, 0]
    assert "pairs.csv" in pairs.describe()
    case = cases_by_list(pairs.files)
    assert case is not None
    assert [case(name) for name in pairs.names] == ["p1", "p2"]


def test_a_list_that_grades_some_pairs_only_is_not_believed_and_says_so(tiles: Path) -> None:
    rows = [f"stained/{name},her2/ihc of {name},{grade}" for name, grade in zip(NAMES[:2], ("3+", ""), strict=True)]
    (tiles / "pairs.csv").write_text("\n".join(["he,ihc,grade", *rows]))
    assert "1 of 2" in PairedTiles(tiles).describe()


def test_tiles_of_one_name_in_several_folders_keep_apart(tmp_path: Path, write_tile: WriteTile) -> None:
    rows = []
    for slide in ("s.1", "s.2"):
        for side in ("he", "ihc"):
            write_tile(tmp_path / slide / side / "0001.png")
        rows.append(f"{slide}/he/0001.png,{slide}/ihc/0001.png")
    (tmp_path / "pairs.csv").write_text("\n".join(["he,ihc", *rows]))
    assert PairedTiles(tmp_path, grades="none").names == ["s.1_he_0001", "s.2_he_0001"]


def test_paths_of_other_systems_are_found(tiles: Path, write_tile: WriteTile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tiles))
    rows = [
        r"stained\S24.101_1.png,her2\ihc of S24.101_1.png",
        f"~/stained/S24.102_1.png,{tiles}/her2/ihc of S24.102_1.png",
        "stained/Gro\u0308ße 3.png,her2/ihc of Größe 3.png",  # the letters of macOS, decomposed
    ]
    (tiles / "elsewhere.csv").write_text("\n".join(["he,ihc", *rows]), encoding="utf-8")
    assert PairedTiles(tiles / "elsewhere.csv", grades="none").names == ["Größe 3", "S24.101_1", "S24.102_1"]


GOOD = "stained/S24.101_1.png,her2/ihc of S24.101_1.png"
WRONG = {
    "no column": ("image,ihc\na,b\n", "no column he"),
    "no rows": ("he,ihc\n", "lists no pairs"),
    "nothing": ("", "is empty"),
    "column twice": (f"he,ihc,he\n{GOOD},x\n", "column he twice"),
    "too many values": (f"he,ihc\n{GOOD},x\n", "line 2 has 3 values"),
    "unknown split": (f"he,ihc,split\n{GOOD},dev\n", r"line 2: split is 'dev'"),
    "one split missing": (f"he,ihc,split\n{GOOD},train\nstained/S24.102_1.png,b,\n", "line 3 has no split"),
    "unknown grade": (f"he,ihc,grade\n{GOOD},4+\n", r"line 2: grade is '4\+'"),
    "H&E twice": (f"he,ihc,split\n{GOOD},train\n{GOOD},val\n", "line 3: .* listed already, at .*line 2"),
    "no name": ("he,ihc\n,x\n", "line 2 has no file in column he"),
    "open quotes": ('he,ihc\n"a,b\n', "line 2 is not CSV"),
    "giant value": ("he,ihc\n" + "x" * 200_000 + ",b\n", "line 2 is not CSV"),
    "UTF-16": ("\ufeffhe,ihc\n".encode("utf-16"), "not text in UTF-8"),
    "binary": (b"\x89PNG\0\0", "not text in UTF-8"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_place(tiles: Path, case: str) -> None:
    content, expected = WRONG[case]
    (tiles / "wrong.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=expected) as raised:
        read_pairs(tiles / "wrong.csv")
    assert "wrong.csv" in str(raised.value)


@pytest.mark.parametrize("name", ["gone.png", "stained", "x" * 300 + ".png", "~nobody-here/a.png"])
def test_a_file_that_is_not_there_is_named_with_its_line(tiles: Path, name: str) -> None:
    (tiles / "pairs.csv").write_text(f"he,ihc\n{GOOD}\n{name},her2/ihc of S24.102_1.png\n")
    with pytest.raises(MissingError, match=r"pairs.csv, line 3: .*relative to the CSV file"):
        find_layout(tiles)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pairs.csv")
    with pytest.raises(InputError, match="not a regular file"):
        find_layout(tmp_path)
