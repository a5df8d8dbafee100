"""Reads recipe files into validated `Recipe` objects; errors name file, section and key."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from restain.errors import ConfigError
from restain.methods import METHODS
from restain.methods.base import AuxiliaryModel, Needs
from restain.training.config import Pretrained, Recipe
from restain.training.shelf import find_recipe
from restain.training.toml import SettingError, TomlTable, merged, override, read_toml

SHARED_TRAINING = ("precision", "channels_last", "compile", "log_every_steps", "sample_every_steps", "save_every_steps")
"""Training settings that auxiliary models inherit: how to run, not how long."""

Validated = TypeVar("Validated", bound=BaseModel)


def load_recipe(name: Path | str, overrides: Sequence[str] = (), given_as: str = "overrides") -> Recipe:
    """Read a recipe and complete it with every default.

    Args:
        name: of a recipe of the package, such as `vsmt-tiny`, or the path of a TOML file.
        overrides: settings such as `training.steps=10` that override the file.
        given_as: name of the overrides in messages.

    Raises:
        MissingError: there is no such recipe; the message names the nearest known ones.
        ConfigError: the file is not TOML, or a key or value is wrong; the message names the nearest known key.
    """
    path = find_recipe(name)
    try:
        table, overridden = override(read_toml(path), overrides)
    except SettingError as error:
        raise ConfigError(f"{given_as}: {error}") from error
    return _recipe(table, _Origin(str(path), frozenset(overridden), given_as), "")


@dataclass(frozen=True)
class _Origin:
    """Origin of settings, for messages."""

    file: str
    overridden: Collection[str]
    given_as: str

    def error(self, key: str, message: str) -> ConfigError:
        overridden = any(f"{name}.".startswith(f"{key}.") for name in self.overridden)
        return ConfigError(f"{self.given_as if overridden else self.file}: {message}")


def _recipe(table: TomlTable, origin: _Origin, prefix: str) -> Recipe:
    """Validate one recipe; `prefix` is its dotted path in the file, empty for the outermost."""
    if "method" not in table:
        raise origin.error("", f"the key 'method' is missing; give one of {', '.join(sorted(METHODS))}")
    name = table["method"]
    if not isinstance(name, str) or name not in METHODS:
        raise origin.error(f"{prefix}method", f"unknown method {name!r}{_suggest(str(name), METHODS)}")
    method = METHODS[name]
    sections = {key: _section(table, key, origin, prefix) for key in ("data", "model", "training", "auxiliary")}
    model = _validated(method.Config, sections["model"], origin, f"{prefix}model.")
    auxiliary = _auxiliary(method.auxiliary(model), table, sections, origin, prefix)
    data = {"unpaired": method.unpaired} | sections["data"]
    recipe = _validated(Recipe, {**table, "data": data, "model": model, "auxiliary": auxiliary}, origin, prefix)
    if recipe.data.unpaired and not method.unpaired:
        message = f"unpaired in [{prefix}data] is true, but {name} trains on pairs; remove it"
        raise origin.error(f"{prefix}data.unpaired", message)
    _check_needs(method.needs(model), recipe, origin, prefix)
    return recipe


def _check_needs(needs: Needs, recipe: Recipe, origin: _Origin, prefix: str) -> None:
    """Check that the batches of `[data]` meet the needs of a step."""
    section, name = f"[{prefix}data]", recipe.method
    crop_px, batch_size = recipe.data.crop_px, recipe.data.batch_size
    if crop_px != "whole" and crop_px % needs.crop_multiple:
        raise origin.error(
            f"{prefix}data.crop_px",
            f"crop_px in {section} is {crop_px}, but with these settings {name} needs a multiple of "
            f"{needs.crop_multiple}; give one, or fewer halvings, smaller regions or other patches in [{prefix}model]",
        )
    if crop_px != "whole" and crop_px < needs.crop_px:
        raise origin.error(
            f"{prefix}data.crop_px",
            f"crop_px in {section} is {crop_px}, but with these settings {name} needs at least {needs.crop_px}; "
            f"crop larger, or give fewer stages or scales or smaller regions in [{prefix}model]",
        )
    if batch_size < needs.images:
        raise origin.error(
            f"{prefix}data.batch_size",
            f"batch_size in {section} is {batch_size}, but {name} compares the images of a batch; "
            f"give at least {needs.images}",
        )


def _auxiliary(
    proposals: Mapping[str, AuxiliaryModel],
    table: TomlTable,
    sections: Mapping[str, TomlTable],
    origin: _Origin,
    prefix: str,
) -> dict[str, Pretrained | Recipe]:
    """The auxiliary models: the checkpoints that the recipe names, or the recipes that train them."""
    for name in sections["auxiliary"].keys() - proposals.keys():
        needs = _suggest(name, proposals) if proposals else "; the method needs none"
        raise origin.error(f"{prefix}auxiliary.{name}", f"unknown model [{prefix}auxiliary.{name}]{needs}")
    chosen: dict[str, Pretrained | Recipe] = {}
    for name, proposal in proposals.items():
        place = f"{prefix}auxiliary.{name}"
        given = _section(sections["auxiliary"], name, origin, f"{prefix}auxiliary.")
        if "checkpoint" in given:
            chosen[name] = _pretrained(given, origin, place)
            continue
        proposed = {
            "method": proposal.method,
            "seed": table.get("seed", 0),
            "data": merged(sections["data"], proposal.data),
            "model": dict(proposal.model),
            "training": {key: value for key, value in sections["training"].items() if key in SHARED_TRAINING}
            | dict(proposal.training),
        }
        if given.get("method", proposal.method) != proposal.method:
            raise origin.error(
                f"{place}.method", f"method in [{place}] must be {proposal.method!r}, not {given['method']!r}"
            )
        chosen[name] = recipe = _recipe(merged(proposed, given), origin, f"{place}.")
        for key in METHODS[proposal.method].agreed:
            asked, found = proposal.model.get(key), getattr(recipe.model, key)
            if asked not in (None, found):
                raise origin.error(
                    f"{place}.model.{key}",
                    f"{key} in [{place}.model] must be {asked!r} as in {table['method']}, which reads the model's "
                    f"features, not {found!r}; remove it",
                )
    return chosen


def _pretrained(given: TomlTable, origin: _Origin, place: str) -> Pretrained:
    # other settings of its training are ignored
    rest = {key: value for key, value in given.items() if key not in Recipe.model_fields}
    pretrained = _validated(Pretrained, rest, origin, f"{place}.")
    if not pretrained.checkpoint.is_file():
        raise origin.error(
            f"{place}.checkpoint",
            f"checkpoint in [{place}]: no file {pretrained.checkpoint}; leave the key out to train the model first",
        )
    return Pretrained(checkpoint=pretrained.checkpoint.resolve())


def _section(table: Mapping[str, Any], key: str, origin: _Origin, prefix: str) -> TomlTable:
    section = table.get(key, {})
    if not isinstance(section, dict):
        raise origin.error(f"{prefix}{key}", f"{prefix}{key} must be a section, [{prefix}{key}], not {section!r}")
    return section


def _validated(model: type[Validated], table: Mapping[str, Any], origin: _Origin, prefix: str) -> Validated:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        # a union field reports one problem per type; they are merged into one message
        problems: dict[str, list[str]] = {}
        for detail in error.errors():
            key, message = _explain(model, dict(detail), prefix)
            problems.setdefault(key, []).append(message)
        key, messages = next(iter(problems.items()))
        raise origin.error(key, " or ".join(messages)) from None


def _explain(model: type[BaseModel], detail: Mapping[str, Any], prefix: str) -> tuple[str, str]:
    """A problem found by pydantic: the dotted key and a message."""
    place, known = model, prefix.split(".")[:-1]
    for part in detail["loc"]:  # keys, then perhaps pydantic's description of the type that did not fit
        field = place.model_fields.get(str(part))
        if field is None:
            break
        known.append(str(part))
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            place = field.annotation
    key, section = ".".join(known), ".".join(known[:-1])
    if detail["type"] == "extra_forbidden":
        unknown = str(detail["loc"][-1])
        return f"{key}.{unknown}".strip(
            "."
        ), f"unknown key {unknown!r}{_inside(key)}{_suggest(unknown, place.model_fields)}"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":  # about several keys together
        return key, f"{_inside(key).strip()}: {message}"
    return key, f"{known[-1]}{_inside(section)}: {message[0].lower() + message[1:]}, got {_shown(detail['input'])}"


def _shown(value: object, most: int = 80) -> str:
    words = repr(value) if not isinstance(value, int) or abs(value) < 10**most else "a number of many digits"
    return words if len(words) <= most else f"{words[: most - 3]}..."


def _inside(section: str) -> str:
    return f" in [{section}]" if section else ""


def _suggest(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"
