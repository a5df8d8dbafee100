import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from restain.errors import ConfigError, MissingError
from restain.training.toml import flat, merged, override, read_table, write_table

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
    assert tomllib.loads(write_table(table)) == table


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
        read_table(tmp_path / "none.toml")
    bad = tmp_path / "bad.toml"
    bad.write_text("method = vsmt\n")
    with pytest.raises(ConfigError, match=r"bad.toml: not valid TOML: .*line 1"):
        read_table(bad)
    bad.write_bytes(b"method = '\xff'")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_table(bad)
