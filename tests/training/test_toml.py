import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restain.errors import ConfigError, MissingError
from restain.training.toml import flat, merged, override, read_toml, write_toml

KEYS = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = NUMBERS | st.booleans() | TEXTS | st.lists(NUMBERS, max_size=3) | st.lists(TEXTS, max_size=3)
TABLES = st.recursive(
    st.dictionaries(KEYS, VALUES, min_size=1, max_size=3),
    lambda tables: st.dictionaries(KEYS, VALUES | tables, min_size=1, max_size=3),
    max_leaves=8,
)


@given(TABLES)
def test_what_is_written_reads_back_the_same(table: dict[str, Any]) -> None:
    assert tomllib.loads(write_toml(table)) == table


@given(TABLES, TABLES)
def test_merging_lets_every_key_above_win_and_loses_none_below(below: dict[str, Any], above: dict[str, Any]) -> None:
    result = merged(below, above)
    assert merged(result, above) == result
    assert flat(above).items() <= flat(result).items()
    assert below.keys() | above.keys() == result.keys()


def test_a_setting_reaches_the_key_that_it_names_and_no_other() -> None:
    table = {"seed": 1, "data": {"crop_px": 512, "loaders": 2}}
    changed, keys = override(table, ["data.crop_px=64", "training.compile = true", "method=vsmt", "a.b=[1, 2.5]"])
    assert changed == {
        "seed": 1,
        "data": {"crop_px": 64, "loaders": 2},
        "training": {"compile": True},
        "method": "vsmt",
        "a": {"b": [1, 2.5]},
    }
    assert keys == {"data.crop_px", "training.compile", "method", "a.b"}
    assert table == {"seed": 1, "data": {"crop_px": 512, "loaders": 2}}


def test_text_needs_no_quotes_and_may_hold_an_equals_sign() -> None:
    assert override({}, ["data.stain=HER2"])[0] == {"data": {"stain": "HER2"}}
    assert override({}, ["a.checkpoint=runs/x=1/model.safetensors"])[0]["a"] == {
        "checkpoint": "runs/x=1/model.safetensors"
    }


@pytest.mark.parametrize("setting", ["steps", "training.=3", "=3", ".steps=3", ""])
def test_a_malformed_setting_is_shown_how(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"expected section.key=value"):
        override({}, [setting])


def test_a_missing_file_and_one_that_is_not_toml_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"none.toml: no such recipe"):
        read_toml(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("method = vsmt\n")
    with pytest.raises(ConfigError, match=r"bad.toml: not valid TOML: .*line 1"):
        read_toml(bad)
    bad.write_bytes(b"method = '\xff'")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_toml(bad)


DEEP = {
    "lists": "x = " + "[" * 30 + "]" * 30,
    "open lists": "x = " + "[" * 100_000,
    "tables": "x = " + "{a = " * 30 + "1" + "}" * 30,
    "dotted keys": ".".join("a" * 30) + " = 1",
    "headers": "[" + ".".join("a" * 3000) + "]\nx = 1",
}


@pytest.mark.parametrize("case", DEEP)
def test_what_is_nested_deeper_than_any_setting_is_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text(DEEP[case])
    with pytest.raises(ConfigError, match=r"deep.toml: not valid TOML: .* deep"):
        read_toml(tmp_path / "deep.toml")


def test_settings_nested_too_deep_are_text_or_refused() -> None:
    assert override({}, ["a.b=" + "[" * 5000])[0]["a"]["b"] == "[" * 5000
    with pytest.raises(ConfigError, match=r"^a\.a\..{,80}: expected"):
        override({}, [".".join("a" * 5000) + "=1"])


def test_a_byte_order_mark_is_not_part_of_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_bytes("\ufeffmethod = 'cut'\r\n".encode())
    assert read_toml(tmp_path / "r.toml") == {"method": "cut"}


def test_numbers_of_thousands_of_digits_and_files_that_are_no_recipe_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("seed = " + "1" * 5000)
    with pytest.raises(ConfigError, match=r"r.toml: not valid TOML"):
        read_toml(path)
    assert override({}, ["seed=" + "1" * 5000])[0]["seed"] == "1" * 5000, "then it is text, and no number"
    path.write_bytes(b"# " + b"x" * 2**21)
    with pytest.raises(ConfigError, match="more than 1,048,576 bytes"):
        read_toml(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(MissingError, match="no such recipe"):
        read_toml(path)
