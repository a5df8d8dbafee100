from collections.abc import Callable
from pathlib import Path

import pytest

from restain.errors import OutputError
from restain.training import Recipe
from restain.training.folder import check_folder, claimed

Small = Callable[..., Recipe]
LISTED = "a\t10\t20\nb\t11\t21\n"


@pytest.fixture
def run(tmp_path: Path, small: Small) -> Path:
    """The folder of a run that has saved something."""
    out = tmp_path / "run"
    with claimed(out, small("cut"), LISTED):
        (out / "state.pt").touch()
    return out


def test_a_new_an_empty_and_the_same_runs_folder_are_welcome(tmp_path: Path, run: Path, small: Small) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new", tmp_path / "empty", run):
        check_folder(folder, small("cut"), LISTED)
    check_folder(run, small("cut", training={"log_every_steps": 1}, data={"workers": 2}), LISTED)


def test_a_file_and_a_folder_of_something_else_are_refused(tmp_path: Path, small: Small) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="file is a file; give a folder for the run"):
        check_folder(tmp_path / "file", small("cut"), LISTED)
    other = tmp_path / "other"
    other.mkdir()
    for index in range(7):
        (other / f"thesis{index}.doc").touch()
    with pytest.raises(OutputError, match=r"is not a run: it holds thesis0.doc; .*thesis4.doc; and 2 more; give a new"):
        check_folder(other, small("cut"), LISTED)


def test_another_recipe_is_refused_with_what_differs(run: Path, small: Small) -> None:
    with pytest.raises(
        OutputError, match=r"another recipe: model.width was 2, is 4; seed was 0, is 1; give another --out"
    ):
        check_folder(run, small("cut", seed=1, model={"width": 4}), LISTED)


def test_other_data_are_refused_with_what_differs(run: Path, small: Small) -> None:
    with pytest.raises(OutputError, match="other data: a has changed; b is gone; c is new; give another --out"):
        check_folder(run, small("cut"), "a\t10\t99\nc\t1\t1\n")


def test_before_anything_is_saved_the_recipe_may_change(run: Path, small: Small) -> None:
    (run / "state.pt").unlink()
    check_folder(run, small("cut", seed=1), "c\t1\t1\n")


def test_two_processes_cannot_train_in_one_folder(run: Path, small: Small) -> None:
    with claimed(run, small("cut"), LISTED), pytest.raises(OutputError, match="another process is training in"):
        claimed(run, small("cut"), LISTED).__enter__()
    with claimed(run, small("cut"), LISTED):
        pass


def test_a_place_where_nothing_can_be_written_is_named(small: Small) -> None:
    nowhere = Path("/proc/restain/run")
    with pytest.raises(OutputError, match=r"cannot write to the folder /proc/restain/run: .*; choose another place"):
        claimed(nowhere, small("cut"), LISTED).__enter__()


def test_what_a_kill_left_half_written_is_removed(run: Path, small: Small) -> None:
    (run / ".0123456789abcdef.pt").touch()
    (run / "samples").mkdir()
    (run / "samples" / ".0123456789abcdef.png").touch()
    check_folder(run, small("cut"), LISTED)
    with claimed(run, small("cut"), LISTED):
        assert {path.name for path in run.rglob("*")} == {".lock", "data.txt", "recipe.toml", "state.pt", "samples"}
