"""TOML tables: read one, override keys, and write one."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from restain.errors import ConfigError, MissingError

TomlTable = dict[str, Any]

MOST_BYTES = 2**20
"""The largest recipe that is read."""
DEEPEST = 20
"""Nesting of tables and lists; recipes use 5 levels."""

_TOO_DEEP = f"tables or lists are nested more than {DEEPEST} deep"


class SettingError(ConfigError):
    """An override that is not of the form `section.key=value`."""


def read_toml(path: Path) -> TomlTable:
    """Read a TOML file.

    Raises:
        MissingError: there is no such file.
        ConfigError: it is not TOML, names line and column; or it is too large, or nested too deep.
    """
    if not path.is_file():
        raise MissingError(f"{path}: no such recipe; give the path of a .toml file")
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ConfigError(f"{path} has more than {MOST_BYTES:,} bytes; a recipe is a short TOML file")
        return parsed(content.decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and numbers of thousands of digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def parsed(text: str) -> TomlTable:
    """Read TOML text.

    Raises:
        ValueError: it is not TOML, or nested too deeply.
    """
    try:
        table = tomllib.loads(text.removeprefix("\ufeff"))  # the byte order mark of Windows editors
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    inner: list[Any] = [table]
    for _ in range(DEEPEST):
        inner = [value for each in inner for value in (each.values() if isinstance(each, dict) else each)]
        inner = [value for value in inner if isinstance(value, dict | list)]
    if inner:
        raise ValueError(_TOO_DEEP)
    return table


def override(table: Mapping[str, Any], settings: Sequence[str]) -> tuple[TomlTable, set[str]]:
    """Apply `section.key=value` settings in order.

    Values are read as TOML (`64`, `true`, `[1, 2]`); anything else is text, so that no quotes are needed.

    Returns:
        The new table, and the dotted keys that were set.

    Raises:
        SettingError: a setting is not of the form `section.key=value`.
    """
    keys = set()
    result = dict(table)
    for setting in settings:
        key, equals, value = (part.strip() for part in setting.partition("="))
        names = key.split(".")
        if not equals or not all(names) or len(names) > DEEPEST:
            shown = setting if len(setting) <= 80 else f"{setting[:77]}..."
            raise SettingError(f"{shown}: expected section.key=value, as in training.steps=500")
        change: Any = _value(value)
        for name in reversed(names):
            change = {name: change}
        result = merged(result, change)
        keys.add(key)
    return result, keys


def _value(text: str) -> Any:
    try:
        return parsed(f"value = {text}")["value"]
    except (ValueError, KeyError):
        return text


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> TomlTable:
    """`below` with the values of `above`, merged table by table."""
    result = dict(below)
    for key, value in above.items():
        lower = result.get(key)
        both_tables = isinstance(lower, Mapping) and isinstance(value, Mapping)
        result[key] = merged(lower, value) if both_tables else value  # type: ignore[arg-type]  # both_tables says so
    return result


def flat(table: Mapping[str, Any], prefix: str = "") -> TomlTable:
    """Nested tables as one table with dotted keys."""
    result: TomlTable = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def write_toml(table: Mapping[str, Any], path: str = "") -> str:
    """A table as TOML text: keys first, then the tables inside it. Keys are bare words; empty tables are left out."""
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {_text(value)}" for key, value in table.items() if key not in tables]
    head = [f"[{path}]"] if path and lines else []
    parts = ["".join(f"{line}\n" for line in head + lines)]
    parts += [write_toml(value, f"{path}.{key}" if path else key) for key, value in tables.items()]
    return "\n".join(part for part in parts if part)


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(item) for item in value)}]"
    if isinstance(value, float):
        return repr(value)
    # JSON strings, numbers and booleans are TOML, except for one control character that JSON does not escape
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
