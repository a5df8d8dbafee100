import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from restain.data.partners import PairFiles
from restain.errors import OutputError
from restain.training import Recipe, folder
from restain.training.folder import claimed, describe_run, list_files
from restain.training.state import Saved

Small = Callable[..., Recipe]
LISTED = "a\t10\t20\nb\t11\t21\n"
UNDER_WAY = Saved(4, 6)


@pytest.fixture
def run(tmp_path: Path, small: Small) -> Path:
    """The folder of a run that has saved something."""
    out = tmp_path / "run"
    with claimed(out):
        describe_run(out, small("cut"), LISTED)
        (out / "state.pt").touch()
    return out


def check_folder(out: Path, recipe: Recipe, listed: str, steps: int = 6, saved: Saved = UNDER_WAY) -> None:
    folder.check_folder(out, recipe, listed, steps, saved)


def test_a_new_an_empty_and_the_same_runs_folder_are_welcome(tmp_path: Path, run: Path, small: Small) -> None:
    (tmp_path / "empty").mkdir()
    for place in (tmp_path / "new", tmp_path / "empty", run):
        check_folder(place, small("cut"), LISTED)
    check_folder(run, small("cut", training={"log_every_steps": 1}, data={"loaders": 2}), LISTED)


def test_a_file_and_a_folder_of_something_else_are_refused(tmp_path: Path, small: Small) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file; give a folder for the run"):
        check_folder(tmp_path / "file", small("cut"), LISTED)
    other = tmp_path / "other"
    other.mkdir()
    for index in range(7):
        (other / f"thesis{index}.doc").touch()
    with pytest.raises(OutputError, match=r"is not a run: it contains thesis0.doc; .*thesis4.doc; and 2 more"):
        check_folder(other, small("cut"), LISTED)


def test_another_recipe_is_refused_with_what_differs(run: Path, small: Small) -> None:
    with pytest.raises(
        OutputError, match=r"another recipe: model.width was 2, is 4; seed was 0, is 1; give another folder"
    ):
        check_folder(run, small("cut", seed=1, model={"width": 4}), LISTED)


def test_other_data_are_refused_with_what_differs(run: Path, small: Small) -> None:
    with pytest.raises(OutputError, match="other data: a has changed; b is gone; c is new; give another folder"):
        check_folder(run, small("cut"), "a\t10\t99\nc\t1\t1\n")


def test_before_anything_is_saved_the_recipe_may_change(run: Path, small: Small) -> None:
    (run / "state.pt").unlink()
    check_folder(run, small("cut", seed=1), "c\t1\t1\n")


def test_two_processes_cannot_train_in_one_folder(run: Path) -> None:
    with claimed(run), pytest.raises(OutputError, match="another process is training in"):
        claimed(run).__enter__()
    with claimed(run):
        pass


def test_a_place_where_nothing_can_be_written_is_named() -> None:
    nowhere = Path("/proc/restain/run")
    with pytest.raises(OutputError, match=r"cannot write to the folder /proc/restain/run: .*; choose another place"):
        claimed(nowhere).__enter__()


def test_what_a_kill_left_half_written_is_removed(run: Path, small: Small) -> None:
    (run / ".0123456789abcdef.pt").touch()
    (run / "samples").mkdir()
    (run / "samples" / ".0123456789abcdef.png").touch()
    check_folder(run, small("cut"), LISTED)
    with claimed(run):
        assert {path.name for path in run.rglob("*")} == {".lock", "data.txt", "recipe.toml", "state.pt", "samples"}


def test_a_finished_run_may_be_made_longer_and_nothing_else(run: Path, small: Small) -> None:
    finished, longer = Saved(6, 6), {"steps": 9}
    check_folder(run, small("cut", training=longer), LISTED, 9, finished)
    check_folder(run, small("cut", training=longer | {"decay_epochs": 0}), LISTED, 9, finished)
    with pytest.raises(OutputError, match=r"training.steps was 6, is 5"):
        check_folder(run, small("cut", training={"steps": 5}), LISTED, 5, finished)
    with pytest.raises(OutputError, match=r"model.width was 2, is 4; training.steps was 6, is 9"):
        check_folder(run, small("cut", training=longer, model={"width": 4}), LISTED, 9, finished)
    with pytest.raises(OutputError, match=r"other data"):
        check_folder(run, small("cut", training=longer), "a\t10\t20\n", 9, finished)
    with pytest.raises(OutputError, match=r"4 of 6 steps.*training.steps was 6, is 9"):
        check_folder(run, small("cut", training=longer), LISTED, 9, UNDER_WAY)


@pytest.mark.parametrize("keep", [0, 10, 40, -20, -1])
def test_a_list_of_pairs_that_is_cut_short_is_not_taken_for_other_data(run: Path, small: Small, keep: int) -> None:
    path = run / "data.txt"
    path.write_bytes(path.read_bytes()[:keep])
    if keep == -1:  # the last line's end carries nothing
        check_folder(run, small("cut"), LISTED)
        return
    with pytest.raises(OutputError, match=r"data.txt is damaged .* remove it"):
        check_folder(run, small("cut"), LISTED)
    path.unlink()
    check_folder(run, small("cut"), LISTED)


@pytest.mark.parametrize("name", ["data.txt", "recipe.toml", "state.pt", "model.safetensors", "losses.jsonl"])
@pytest.mark.parametrize("kind", [Path.mkdir, os.mkfifo])
def test_what_is_no_plain_file_is_neither_waited_for_nor_replaced(
    run: Path, small: Small, name: str, kind: Callable[[Path], None]
) -> None:
    (run / name).unlink(missing_ok=True)
    kind(run / name)
    with pytest.raises(OutputError, match=rf"{name} is not a regular file"):
        check_folder(run, small("cut"), LISTED)


def test_names_that_are_not_utf_8_are_listed(tmp_path: Path, small: Small) -> None:
    listed = os.fsdecode("Müller\t1\t2\n".encode("latin-1"))
    (tmp_path / "state.pt").touch()
    describe_run(tmp_path, small("cut"), listed)
    check_folder(tmp_path, small("cut"), listed)


def test_results_of_a_run_without_a_state_are_not_taken_for_those_of_another(run: Path, small: Small) -> None:
    """It was killed after its first figures and before its first state, or the state was removed."""
    (run / "state.pt").unlink()
    (run / "best.safetensors").touch()
    check_folder(run, small("cut"), LISTED, saved=Saved())
    with pytest.raises(OutputError, match="another recipe: seed was 0, is 1"):
        check_folder(run, small("cut", seed=1), LISTED, saved=Saved())
    with pytest.raises(OutputError, match="other data: a has changed"):
        check_folder(run, small("cut"), LISTED.replace("20", "30"), saved=Saved())


def test_uncompressed_images_of_one_size_are_told_apart(tmp_path: Path, run: Path, small: Small) -> None:
    """All of one shape have one size in bytes, so that another data set would share models and maps of nuclei."""

    def listed(ending: str, level: int) -> str:
        path = tmp_path / f"a.{ending}"
        Image.new("RGB", (32, 32), (level, 0, 0)).save(path)
        return list_files([PairFiles("a", path, path)])

    assert listed("tif", 1) != listed("tif", 2)
    assert listed("bmp", 1) != listed("bmp", 2)
    assert listed("tif", 1) == listed("tif", 1)
    size = (tmp_path / "a.tif").stat().st_size
    describe_run(run, small("cut"), f"a\t{size}\t{size}\n")  # as earlier versions did
    check_folder(run, small("cut"), listed("tif", 1))
    describe_run(run, small("cut"), listed("tif", 1))
    with pytest.raises(OutputError, match="other data: a has changed"):
        check_folder(run, small("cut"), listed("tif", 2))
