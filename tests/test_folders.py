"""One walk through folders, one way to pair names."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restain.errors import InputError, MissingError
from restain.folders import (
    beside,
    files_below,
    images_by_name,
    is_file_named,
    list_images,
    pair_by_name,
    partners,
    read_text,
    some,
)


def touch(folder: Path, *names: str) -> Path:
    """Empty files in a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_a_folder_lists_its_images_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a.jpeg", ".hidden.png", "notes.txt")
    assert [path.name for path in list_images(tmp_path)] == ["a.jpeg", "b.PNG"]
    with pytest.raises(MissingError, match="nowhere"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"notes.txt"):
        list_images(tmp_path / "notes.txt")


def test_the_walk_leaves_out_what_is_hidden_unfinished_a_map_or_a_result(tmp_path: Path) -> None:
    touch(tmp_path, "a.svs", "sub/b.png", "sub/c.txt")
    touch(tmp_path, ".git/d.png", ".e.png", "f.ome.tif.spool/tiles.sqlite", "a.trust.png", "a.tissue.png")
    touch(tmp_path, "trust/a.png", "out/b.png", "sub/trust/b.png")
    touch(tmp_path, "trust.png")  # an image that is called so
    found = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path, tmp_path / "out")]
    assert found == ["a.svs", "sub/b.png", "sub/c.txt", "trust.png"]


def test_names_pair_whatever_their_endings(tmp_path: Path) -> None:
    one, other = touch(tmp_path / "he", "b.png", "a.tif"), touch(tmp_path / "ihc", "a.jpg", "b.png")
    assert pair_by_name(one, other) == {"a": (one / "a.tif", other / "a.jpg"), "b": (one / "b.png", other / "b.png")}


def test_only_partners_may_be_more(tmp_path: Path) -> None:
    few, many = touch(tmp_path / "few", "a.png"), touch(tmp_path / "many", "a.png", "b.png")
    assert partners(images_by_name(few), many) == {"a": many / "a.png"}
    for refuse in (lambda: partners(images_by_name(many), few), lambda: pair_by_name(few, many)):
        with pytest.raises(InputError, match=r"b\.png"):
            refuse()


def test_a_name_that_two_files_share_has_no_partner(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.jpg and \S*a\.png"):
        images_by_name(touch(tmp_path, "a.png", "a.jpg"))


@pytest.mark.parametrize("name", ["case.1.ome.tif", "case.1.OME.TIFF"])
def test_what_lies_beside_a_slide_keeps_its_name(name: str) -> None:
    assert beside(Path("out") / name, "tissue.png") == Path("out/case.1.tissue.png")


@given(st.lists(st.text("ab", min_size=1), max_size=8), st.integers(1, 9))
def test_a_list_that_is_cut_says_how_many_are_missing(words: list[str], most: int) -> None:
    listed = some(words, most)
    shown, _, rest = listed.partition(" and ")
    assert shown == ", ".join(words[:most])
    assert rest == (f"{len(words) - most} more" if len(words) > most else "")


def test_text_is_read_of_plain_files_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with pytest.raises(MissingError, match=r"t\.csv does not exist; a CSV is expected"):
        read_text(path, "a CSV")
    with pytest.raises(InputError, match="not a plain file"):
        read_text(tmp_path, "a CSV")
    with pytest.raises(InputError, match="too long"):
        read_text(tmp_path / ("x" * 5000), "a CSV")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a plain file"):
        read_text(tmp_path / "pipe", "a CSV")
    for content, words in ((b"a\0b", "zero byte"), (b"\xff\xff", "not text in UTF-8")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_text(path, "a CSV")
    path.write_bytes("\ufeffslide\n".encode())
    assert read_text(path, "a CSV") == "slide\n"


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "nowhere.png"])
def test_a_name_out_of_a_table_may_be_anything(tmp_path: Path, name: str) -> None:
    assert not is_file_named(tmp_path / name)
