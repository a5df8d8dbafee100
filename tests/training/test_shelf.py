"""Recipes of the package: found by name from anywhere, from a wheel too."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from restain.errors import MissingError, OutputError
from restain.training import load_recipe
from restain.training.shelf import copy_recipe, description, find_recipe, packaged_recipes


def test_a_name_is_a_recipe_of_the_package_whatever_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cut-tiny").mkdir()
    assert find_recipe("cut-tiny") == packaged_recipes()["cut-tiny"]
    assert load_recipe("cut-tiny").method == "cut"


def test_a_path_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.toml").write_text('method = "asp"\n')
    assert load_recipe(tmp_path / "mine.toml").method == "asp"
    assert load_recipe("~/mine.toml").method == "asp"
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine.toml").method == "asp"


@pytest.mark.parametrize(
    ("unknown", "near"),
    [
        ("vsmt-tyny", "vsmt-tiny"),
        ("fastcut-mist", "fastcut-mist-her2"),
        ("cut-bci", "cut-mist-her2"),
        ("recipes/asp-tiny.toml", "asp-tiny"),
    ],
)
def test_an_unknown_recipe_is_answered_with_near_ones(unknown: str, near: str) -> None:
    with pytest.raises(MissingError, match=f"'{near}'") as refused:
        load_recipe(unknown)
    assert unknown in str(refused.value)


def test_a_word_unlike_any_recipe_is_told_where_recipes_are() -> None:
    with pytest.raises(MissingError, match="restain recipes"):
        find_recipe("0000")


@pytest.mark.parametrize("name", packaged_recipes())
def test_each_recipe_says_in_one_line_what_it_trains(name: str) -> None:
    assert 20 < len(description(packaged_recipes()[name])) <= 118


def test_a_copy_is_the_recipe_and_replaces_nothing(tmp_path: Path) -> None:
    target = copy_recipe("asp-tiny", tmp_path)
    assert target == tmp_path / "asp-tiny.toml"
    assert load_recipe(target) == load_recipe("asp-tiny")
    target.write_text("edited")
    with pytest.raises(OutputError, match="exists"):
        copy_recipe("asp-tiny", target)
    assert target.read_text() == "edited"
    assert copy_recipe("asp-tiny", tmp_path / "new" / "mine.toml").is_file()


@pytest.fixture(scope="session")
def unpacked_wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as a wheel installs it, built without any network."""
    folder = tmp_path_factory.mktemp("wheel")
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=project, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_trains_by_name(unpacked_wheel: Path, tiles: Path, tmp_path: Path) -> None:
    assert sorted(path.stem for path in unpacked_wheel.glob("restain/recipes/*.toml")) == list(packaged_recipes())
    code = (
        "import restain; from restain.training import load_recipe\n"
        "recipe = load_recipe('reconstruct-tiny', ['model.width=1'])\n"
        f"print(restain.__file__, restain.train(recipe, {str(tiles)!r}, 'run', steps=2), sep='\\n')"
    )
    environment = {"PYTHONPATH": str(unpacked_wheel), "OMP_NUM_THREADS": "1", "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    came_from, checkpoint = run.stdout.splitlines()
    assert Path(came_from).is_relative_to(unpacked_wheel)
    assert (tmp_path / checkpoint).is_file()
