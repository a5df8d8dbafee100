"""What a bench compares: its rows, and how much training each of them gets."""

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
    """One line of the table: a recipe, and what is changed in it."""

    name: str
    recipe: Path
    settings: tuple[str, ...] = ()
    """Such as `model.alignment=identity`; they win over the file."""

    @property
    def key(self) -> str:
        """Its name as a folder's."""
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")

    def load(self, seed: int) -> Recipe:
        """The recipe of one seed.

        Raises:
            MissingError: there is no such file.
            ConfigError: the file or a setting is wrong, or its model would stain at another scale than the others.
        """
        recipe = load_recipe(self.recipe, [*self.settings, f"seed={seed}"])
        if side := recipe.data.resize_px:
            raise ConfigError(
                f"the row {self.name!r} learns from tiles resized to {side} px, but a bench stains them as they are; "
                "leave resize_px in [data] out"
            )
        return recipe


@dataclass(frozen=True)
class Budget:
    """How long each row trains, its auxiliary models not counted; neither given means as long as its recipe says."""

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
        """As the table says it."""
        if self.steps:
            return f"{self.steps:,} steps"
        return f"{self.minutes:g} minutes" if self.minutes else "as long as each recipe says"


def read_rows(words: Sequence[str], settings: Sequence[str] = ()) -> list[Row]:
    """Read rows as the command line gives them.

    Args:
        words: for each row `[NAME=]RECIPE[,SECTION.KEY=VALUE…]`; without a name it is called as its file.
        settings: changes in every recipe; those of the row itself win.

    Raises:
        ConfigError: there is no row, two share a name, or a name has signs that a folder's cannot have.
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
            raise ConfigError(f"a row cannot be called {row.name!r}; use letters, digits, spaces and . + - _")
    keys = [row.key for row in rows]
    if twice := next((row for row in rows if keys.count(row.key) > 1), None):
        raise ConfigError(f"two rows are called {twice.name!r}; name them apart, as in first={twice.recipe}")
    return rows
