"""A run's folder: whether it may be used, what it was made with, and that only one process writes to it.

* `recipe.toml`: every setting
* `data.txt`: the pairs that it learns from, with the size of each file
* `losses.jsonl`: losses over time; `tensorboard/` has the same
* `samples/`: grids of images
* `state.pt`: what resuming needs
* `model.safetensors`: the product, as of the last saved state
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from restain.data.pairs import PairedTiles
from restain.errors import OutputError
from restain.image import atomic_path
from restain.training.config import Recipe, identity
from restain.training.toml import read_table, write_table

if sys.platform != "win32":
    import fcntl

RECIPE, LISTING, LOCK, STATE, MODEL = "recipe.toml", "data.txt", ".lock", "state.pt", "model.safetensors"

_LEFT_OVER = re.compile(r"\.[0-9a-f]{16}\.\w+")
"""Temporary files of `atomic_path`, which a kill may leave behind."""

_SHOWN = 5
"""Differences that a message spells out."""


def listing(pairs: PairedTiles) -> str:
    """The pairs by name, with the size of both files in bytes; two data sets with one listing count as the same."""
    return "".join(f"{pair.name}\t{pair.he.stat().st_size}\t{pair.ihc.stat().st_size}\n" for pair in pairs.files)


def check_folder(out: Path, recipe: Recipe, listed: str) -> None:
    """Check that a run may start in `out`, or go on there if a state was saved.

    Raises:
        OutputError: `out` is a file, holds something else, or a run with another recipe or other data.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; give a folder for the run")
    if not out.is_dir():
        return
    present = {path.name for path in out.iterdir() if not _LEFT_OVER.fullmatch(path.name)}
    if RECIPE not in present and (foreign := sorted(present - {LISTING, LOCK})):
        raise OutputError(f"{out} is not a run: it holds {_first(foreign)}; give a new or an empty folder")
    if STATE not in present:  # nothing to lose
        return
    old, new = identity(read_table(out / RECIPE)), identity(recipe.table())
    changed = [
        f"{key} was {old.get(key, 'not set')!r}, is {new.get(key, 'not set')!r}"
        for key in sorted(old.keys() | new.keys())
        if _plain(old.get(key)) != _plain(new.get(key))
    ]
    if changed:
        raise OutputError(f"{out} is a run with another recipe: {_first(changed)}; {_WAY_OUT}")
    if LISTING in present and (differences := _changed_pairs((out / LISTING).read_text(encoding="utf-8"), listed)):
        raise OutputError(f"{out} is a run on other data: {_first(differences)}; {_WAY_OUT}")


_WAY_OUT = "give another --out, or the same command as before to go on with this one"


@contextmanager
def claimed(out: Path, recipe: Recipe, listed: str) -> Iterator[None]:
    """Make the folder, say in it what the run is, and keep other processes out while the context lasts.

    Raises:
        OutputError: the folder cannot be written, or another process is training in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("w")
    except OSError as error:
        raise OutputError(f"cannot write to the folder {out}: {error.strerror}; choose another place") from error
    with lock:
        if sys.platform != "win32":
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise OutputError(
                    f"another process is training in {out}; wait for it, or give another --out"
                ) from error
        for path in list(out.rglob(".*")):
            if _LEFT_OVER.fullmatch(path.name):
                path.unlink()
        for name, text in ((LISTING, listed), (RECIPE, write_table(recipe.table()))):
            with atomic_path(out / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
        yield


def _changed_pairs(old: str, new: str) -> list[str]:
    before, after = (dict(line.split("\t", 1) for line in text.splitlines()) for text in (old, new))
    return [
        *(f"{name} is gone" for name in before.keys() - after.keys()),
        *(f"{name} is new" for name in after.keys() - before.keys()),
        *(f"{name} has changed" for name in before.keys() & after.keys() if before[name] != after[name]),
    ]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _first(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return "; ".join(sorted(items)[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
