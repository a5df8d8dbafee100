"""Rows and budgets as the command line gives them."""

from pathlib import Path

import pytest

from restain.bench import Budget, Row, read_rows
from restain.errors import ConfigError


def test_a_row_is_named_after_its_file_unless_it_says_otherwise() -> None:
    assert read_rows(["cut-tiny", "the best=a/b.toml"]) == [
        Row("cut-tiny", Path("cut-tiny")),
        Row("the best", Path("a/b.toml")),
    ]


def test_settings_of_a_row_come_after_and_so_win_over_those_of_all() -> None:
    (row,) = read_rows(["x=a.toml,model.lr=1e-3,model.width=2"], ["model.lr=1e-4"])
    assert row.settings == ("model.lr=1e-4", "model.lr=1e-3", "model.width=2")


def test_a_list_in_a_setting_is_not_taken_apart() -> None:
    (row,) = read_rows(["vsmt=vsmt-tiny,model.views.dab_factor=[0,1.2],model.width=4"])
    assert row.settings == ("model.views.dab_factor=[0,1.2]", "model.width=4")
    model = Row(row.name, row.recipe, row.settings).load(seed=0).table()["model"]
    assert (model["views"]["dab_factor"], model["width"]) == ([0, 1.2], 4)


def test_a_row_loads_with_its_settings_and_the_seed() -> None:
    recipe = Row("x", Path("cut-tiny"), ("model.width=6",)).load(seed=5)
    assert recipe.seed == 5
    assert recipe.table()["model"]["width"] == 6


def test_a_row_that_stains_at_another_scale_is_refused() -> None:
    with pytest.raises(ConfigError, match="'small' trains on tiles resized to 64 px"):
        Row("small", Path("cut-tiny"), ("data.resize_px=64",)).load(seed=0)


@pytest.mark.parametrize(
    ("words", "about"),
    [([], "no recipe"), (["a/x.toml", "b/x.toml"], "two rows"), (["a b=x.toml", "A-b=y.toml"], "two rows")],
)
def test_rows_that_cannot_be_told_apart_are_refused(words: list[str], about: str) -> None:
    with pytest.raises(ConfigError, match=about):
        read_rows(words)


def test_a_name_that_leaves_the_folder_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not valid"):
        read_rows(["../up=x.toml"])


def test_budgets() -> None:
    assert Budget.parse("steps=12") == Budget(steps=12)
    assert Budget.parse("minutes=1.5") == Budget(minutes=1.5)
    assert (Budget(steps=1200).words, Budget(minutes=1.5).words) == ("1,200 steps", "1.5 minutes")


@pytest.mark.parametrize("words", ["12", "steps=0", "steps=-3", "steps=1.5", "minutes=0", "hours=2", "minutes="])
def test_other_budgets_are_refused(words: str) -> None:
    with pytest.raises(ConfigError, match="steps=N or minutes=M"):
        Budget.parse(words)
