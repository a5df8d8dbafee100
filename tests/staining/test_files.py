"""Results keep the names and folders of their images, and nothing is overwritten by accident."""

import os
from pathlib import Path

import pytest

from restain.errors import InputError, MissingError, OutputError
from restain.slides.kinds import is_slide
from restain.staining.inputs import find_images, passed_over


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("he/b.PNG", "he/a.jpg", "he/sub/a.tif", "he/notes.txt", "he/.hidden.png", "he/.cache/c.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(folder: Path, *inputs: str, out: str = "out", overwrite: bool = False) -> dict[str, str]:
    jobs = find_images([folder / given for given in inputs], folder / out, overwrite=overwrite)
    return {str(job.source.relative_to(folder)): str(job.target.relative_to(folder / out)) for job in jobs}


def test_folders_keep_their_subfolders(folder: Path) -> None:
    assert names(folder, "he") == {"he/a.jpg": "a.png", "he/b.PNG": "b.png", "he/sub/a.tif": "sub/a.png"}


def test_files_and_folders_together(folder: Path) -> None:
    assert names(folder, "he/sub", "he/b.PNG") == {"he/sub/a.tif": "a.png", "he/b.PNG": "b.png"}


def test_an_image_named_twice_is_stained_once(folder: Path) -> None:
    assert names(folder, "he/b.PNG", "he", "he/../he/b.PNG") == names(folder, "he")


@pytest.mark.parametrize("second", ["he/a.png", "he/sub/a.tif"])
def test_two_images_of_one_name_are_refused(folder: Path, second: str) -> None:
    (folder / second).touch()
    with pytest.raises(InputError, match=r"a\.jpg and .*would both become .*a\.png"):
        names(folder, "he", second)


def test_results_inside_the_input_are_not_stained_again(folder: Path) -> None:
    (folder / "he" / "out").mkdir()
    (folder / "he" / "out" / "a.png").touch()
    assert "he/out/a.png" not in names(folder, "he", out="he/out", overwrite=True)
    assert "he/out/a.png" not in names(folder, "he", out="he/../he/out", overwrite=True)


def test_maps_of_an_earlier_run_are_no_images(folder: Path) -> None:
    before = passed_over([folder / "he"], is_slide)
    for name in ("he/trust/a.png", "he/sub/trust/a.png", "he/slide.trust.png", "he/slide.tissue.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    assert names(folder, "he") == {"he/a.jpg": "a.png", "he/b.PNG": "b.png", "he/sub/a.tif": "sub/a.png"}
    assert passed_over([folder / "he"], is_slide) == before
    assert names(folder, "he/trust") == {"he/trust/a.png": "a.png"}, "who asks for the folder itself means it"


def test_a_folder_with_files_is_refused_unless_overwriting_is_allowed(folder: Path) -> None:
    (folder / "out").mkdir()
    assert names(folder, "he")
    (folder / "out" / "x.txt").touch()
    with pytest.raises(OutputError, match="out is not empty; choose another folder"):
        names(folder, "he")
    assert names(folder, "he", overwrite=True)


def test_an_image_never_replaces_itself(folder: Path) -> None:
    (folder / "png").mkdir()
    (folder / "png" / "a.png").touch()
    with pytest.raises(OutputError, match=r"png/a\.png is an input"):
        names(folder, "png/a.png", out="png", overwrite=True)


def test_wrong_places_are_refused(folder: Path) -> None:
    with pytest.raises(MissingError, match="nothing does not exist"):
        names(folder, "nothing")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no images; expected files that end in"):
        names(folder, "empty")
    with pytest.raises(OutputError, match=r"out\.png is the name of a file"):
        names(folder, "he", out="out.png")
    with pytest.raises(OutputError, match=r"notes\.txt is the name of a file"):
        names(folder, "he", out="he/notes.txt")


@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_folder_that_is_linked_into_itself_ends(folder: Path) -> None:
    (folder / "he" / "loop").symlink_to(folder / "he")
    assert len(names(folder, "he")) >= 3
