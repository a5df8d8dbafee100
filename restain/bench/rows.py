"""The rows that a bench compares, and the training budget of each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from restain.errors import ConfigError
from restain.training import Recipe, load_recipe

_NAME = re.compile(r"[\w][\w .+-]*")
_SEPARATOR = re.compile(r",(?=\w+(?:\.\w+)+=)")
"""A comma that `section.key=` follows; others belong to a value, such as a list."""


@dataclass(frozen=True)
class Row:
    """One row of the table: a recipe and its overrides."""

    name: str
    recipe: Path
    settings: tuple[str, ...] = ()
    """Overrides such as `model.alignment=identity`."""

    @property
    def key(self) -> str:
        """Its folder name."""
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")

    def load(self, seed: int) -> Recipe:
        """The recipe of one seed.

        Raises:
            MissingError: there is no such file.
            ConfigError: the file or a setting is wrong, or its model would stain at a different scale.
        """
        recipe = load_recipe(self.recipe, [*self.settings, f"seed={seed}"])
        if side := recipe.data.resize_px:
            raise ConfigError(
                f"the row {self.name!r} trains on tiles resized to {side} px, but a bench stains them at full size; "
                "remove resize_px from [data]"
            )
        return recipe


@dataclass(frozen=True)
class Budget:
    """Length of each training, not counting auxiliary models; from the recipe if neither is given."""

    steps: int | None = None
    minutes: float | None = None

    @classmethod
    def parse(cls, words: str) -> "Budget":
        """Read `steps=N` or `minutes=M`.

        Raises:
            ConfigError: it is something else, or not positive.
        """
        kind, _, number = words.partition("=")
        try:
            if kind == "steps" and int(number) > 0:
                return cls(steps=int(number))
            if kind == "minutes" and float(number) > 0:
                return cls(minutes=float(number))
        except ValueError:
            pass
        raise ConfigError(f"budget {words}: give steps=N or minutes=M, a positive number")

    @property
    def words(self) -> str:
        """Text for the table."""
        if self.steps:
            return f"{self.steps:,} steps"
        return f"{self.minutes:g} minutes" if self.minutes else "as long as each recipe says"


def read_rows(words: Sequence[str], settings: Sequence[str] = ()) -> list[Row]:
    """Read rows as the command line gives them.

    Args:
        words: for each row `[NAME=]RECIPE[,SECTION.KEY=VALUE…]`; without a name it is called as its file.
        settings: overrides of every recipe; those of the row take precedence.

    Raises:
        ConfigError: there is no row, two share a name, or a name is not valid for a folder.
    """
    rows = []
    for word in words:
        head, *own = _SEPARATOR.split(word)
        name, _, path = head.rpartition("=")
        rows.append(Row(name or Path(path).stem, Path(path), (*settings, *own)))
    if not rows:
        raise ConfigError("no recipe was given; a bench needs one or more")
    for row in rows:
        if not _NAME.fullmatch(row.name):
            raise ConfigError(f"the row name {row.name!r} is not valid; use letters, digits, spaces and . + - _")
    keys = [row.key for row in rows]
    if twice := next((row for row in rows if keys.count(row.key) > 1), None):
        raise ConfigError(f"two rows are called {twice.name!r}; give them different names, as in first={twice.recipe}")
    return rows
