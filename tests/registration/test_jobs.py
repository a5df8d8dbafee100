"""Lists of slides: names, cases that stay together, and what is refused with its line."""

from pathlib import Path

import pytest

from restain.errors import InputError, RestainError
from restain.registration.jobs import SlidePair, columns_not_read, one_pair, read_slide_pairs


def listed(folder: Path, text: str, validation: float = 0.2, seed: int = 0) -> list[SlidePair]:
    for name in ("a.svs", "b.svs", "c.svs", "d.ome.tif", "a-her2.svs", "a-er.svs", "t.json"):
        (folder / name).touch()
    path = folder / "slides.csv"
    path.write_text(text, encoding="utf-8")
    return read_slide_pairs(path, validation, seed)


def test_rows_become_pairs_of_slides(tmp_path: Path) -> None:
    text = "he,ihc,case,grade,split,transform,ihc_mpp\na.svs,b.svs,p1,2+,train,t.json,0.5\nd.ome.tif,c.svs,p2,,val,,\n"
    first, second = listed(tmp_path, text)
    assert (first.he, first.ihc) == (tmp_path / "a.svs", tmp_path / "b.svs")
    assert (first.name, first.case, first.grade, first.split) == ("p1_a", "p1", "2+", "train")
    assert (first.transform, first.ihc_mpp, first.he_mpp) == (tmp_path / "t.json", 0.5, None)
    assert (second.name, second.case, second.split) == ("p2_d", "p2", "val")
    assert listed(tmp_path, text.replace(",", ";")) == [first, second]
    assert one_pair(Path("x/d.ome.tif"), Path("y.svs")).name == "d"


def test_an_h_and_e_with_two_stains_gives_two_names(tmp_path: Path) -> None:
    pairs = listed(tmp_path, "he,ihc\na.svs,a-her2.svs\na.svs,a-er.svs\n")
    assert [pair.name for pair in pairs] == ["a_a-her2", "a_a-er"]
    assert {pair.case for pair in pairs} == {"a"}


def test_cases_are_parted_whole_and_stay_where_they_are(tmp_path: Path) -> None:
    slides = [f"s{n}.svs" for n in range(60)]
    for name in slides:
        (tmp_path / name).touch()
    rows = [f"{name},b.svs,case{n // 3}" for n, name in enumerate(slides)]
    pairs = listed(tmp_path, "\n".join(["he,ihc,case", *rows]), 0.3)
    split = {pair.case: pair.split for pair in pairs}
    assert all(pair.split == split[pair.case] for pair in pairs)
    assert 2 <= list(split.values()).count("val") <= 11
    fewer = listed(tmp_path, "\n".join(["he,ihc,case", *rows[:30]]), 0.3)
    assert all(pair.split == split[pair.case] for pair in fewer)
    other = listed(tmp_path, "\n".join(["he,ihc,case", *rows]), 0.3, seed=1)
    assert [pair.split for pair in other] != [pair.split for pair in pairs]
    assert {pair.split for pair in listed(tmp_path, "he,ihc\na.svs,b.svs\nc.svs,b.svs\n", 0.01)} == {"train", "val"}
    assert {pair.split for pair in listed(tmp_path, "he,ihc\na.svs,b.svs\nc.svs,b.svs\n", 0)} == {"train"}
    assert {pair.split for pair in listed(tmp_path, "he,ihc\na.svs,b.svs\n", 0.5)} == {"train"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("he,case\na.svs,1\n", "no column ihc"),
        ("he,ihc\n", "lists no slides"),
        ("he,ihc\na.svs\n", "line 2: expected 2 values"),
        ("he,ihc\na.svs,none.svs\n", r"line 2: .*none\.svs does not exist"),
        ("he,ihc\na.svs,\n", "line 2: no file under ihc"),
        ("he,ihc,split\na.svs,b.svs,test\n", "expected train or val"),
        ("he,ihc,grade\na.svs,b.svs,high\n", "grade is 'high'"),
        ("he,ihc,he_mpp\na.svs,b.svs,25\n", "out of range"),
        ("he,ihc,he_mpp\na.svs,b.svs,x\n", "'x' is not a number"),
        ("he,ihc,split\na.svs,b.svs,train\nc.svs,b.svs,\n", "line 3: no split"),
        ("he,ihc,case,split\na.svs,b.svs,1,train\nc.svs,b.svs,1,val\n", "case 1 is both in train and in val"),
        ("he,ihc\na.svs,b.svs\na.svs,b.svs\n", "would both be named"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RestainError, match=message):
        listed(tmp_path, text)


def test_columns_under_other_names_are_told(tmp_path: Path) -> None:
    listed(tmp_path, ",he,ihc,Case,patient\n0,a.svs,b.svs,1,p1\n")
    assert columns_not_read(tmp_path / "slides.csv") == ["patient"]


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_slide_pairs(tmp_path / "none.csv", 0.2, 0)
    with pytest.raises(InputError):
        read_slide_pairs(tmp_path, 0.2, 0)
