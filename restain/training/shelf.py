"""Recipes of the package, found by name; other recipes are found by path."""

import difflib
from pathlib import Path

from restain.errors import MissingError, OutputError
from restain.image import atomic_path

_SHELF = Path(__file__).resolve().parents[1] / "recipes"


def packaged_recipes() -> dict[str, Path]:
    """The file of each recipe of the package, by name in alphabetical order."""
    return {path.stem: path for path in sorted(_SHELF.glob("*.toml"), key=lambda path: path.stem)}


def find_recipe(name: Path | str) -> Path:
    """The file of a recipe.

    Args:
        name: of a recipe of the package, such as `vsmt-tiny`, or the path of a TOML file. A bare name without suffix is
            a name, regardless of the working directory.

    Raises:
        MissingError: it is neither; the message names the most similar recipes.
    """
    path, known = Path(name).expanduser(), packaged_recipes()
    if path.suffix != ".toml" and path.name == str(name):
        if found := known.get(str(name)):
            return found
        raise MissingError(f"there is no recipe {str(name)!r}{_near(str(name), list(known))}")
    if not path.is_file():
        raise MissingError(f"{path}: no such recipe file{_near(path.stem, list(known))}")
    return path


def description(recipe: Path) -> str:
    """The comment in the first line of a recipe; empty without one."""
    with recipe.open(encoding="utf-8") as lines:
        first = lines.readline()
    return first.lstrip("#").strip() if first.startswith("#") else ""


def copy_recipe(name: str, destination: Path | str | None = None) -> Path:
    """Copy a recipe of the package to a file, comments included.

    Args:
        name: of the recipe.
        destination: a file, or an existing folder; `NAME.toml` in the working directory if None.

    Returns:
        The file.

    Raises:
        MissingError: there is no recipe with this name.
        OutputError: the file exists, or cannot be written.
    """
    known = packaged_recipes()
    if name not in known:
        raise MissingError(f"there is no recipe {name!r}{_near(name, list(known))}")
    target = Path.cwd() if destination is None else Path(destination).expanduser()
    if target.is_dir():
        target /= known[name].name
    if target.exists():
        raise OutputError(f"{target} exists; give another file, or remove it first")
    with atomic_path(target) as temporary:
        temporary.write_bytes(known[name].read_bytes())
    return target


def _near(name: str, known: list[str]) -> str:
    same_method = [one for one in known if one.partition("-")[0] == name.partition("-")[0]]
    close = difflib.get_close_matches(name, same_method or known, n=3, cutoff=0.4)
    if not close:
        return "; `restain recipes` lists those of the package, and others are given by path, ending in .toml"
    return f"; did you mean {' or '.join(repr(one) for one in close)}? `restain recipes` lists all"
