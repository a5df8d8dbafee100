"""A run's folder: whether it can be used, its settings and data, and its lock.

* `recipe.toml`: every setting
* `data.txt`: the training pairs, with the size of each file and, if it may be uncompressed, a hash
* `losses.jsonl`: losses over time; `tensorboard/` has the same
* `held_out.jsonl`: figures on held-out pairs, if requested
* `samples/`: grids of images
* `state.pt`: the state for resuming
* `model.safetensors`: the product, as of the last saved state
* `best.safetensors`: the product with the best figure on held-out pairs, if one is named
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from restain.data.pairs import PairedTiles
from restain.data.partners import PairFiles
from restain.errors import OutputError
from restain.folders import sampled_hash
from restain.image import atomic_path, is_unfinished, remove_unfinished
from restain.training.config import LENGTH, Recipe, identity
from restain.training.state import Saved
from restain.training.toml import read_toml, write_toml
from restain.workers.lock import LOCK, locked

RECIPE, LISTING, STATE, MODEL, BEST = "recipe.toml", "data.txt", "state.pt", "model.safetensors", "best.safetensors"
LOSSES, HELD_OUT = "losses.jsonl", "held_out.jsonl"

_SHOWN = 5
"""Number of differences in a message."""

_UNCOMPRESSED = frozenset({".tif", ".tiff", ".bmp"})
"""Suffixes of images whose size in bytes may say nothing about their contents."""
_HASHED = "# sha256 "
"""Beginning of the last line of `data.txt`."""


def listing(pairs: PairedTiles) -> str:
    """The pairs by name, with what `weight` tells of both files and the grade, if a list gives it.

    Two data sets with one listing count as the same.
    """
    return list_files(pairs.files)


def list_files(files: Iterable[PairFiles]) -> str:
    """The same for the files of pairs."""
    return "".join(
        f"{pair.name}\t{weight(pair.he)}\t{weight(pair.ihc)}{'' if pair.grade is None else f'{chr(9)}{pair.grade}'}\n"
        for pair in files
    )


def weight(image: Path) -> str:
    """Size of an image in bytes; of one that may be uncompressed, as all of its shape are, also a hash of parts."""
    return sampled_hash(image) if image.suffix.lower() in _UNCOMPRESSED else str(image.stat().st_size)


def check_folder(out: Path, recipe: Recipe, listed: str, steps: int, saved: Saved) -> None:
    """Check that a run may start in `out`, or resume there if a state was saved.

    Args:
        out: the folder.
        recipe: the recipe to train.
        listed: the data, as `listing` gives it.
        steps: how long.
        saved: header of the state in the folder. If it is finished, the recipe may have a greater length.

    Raises:
        OutputError: `out` is a file, has other files, or is a run with another recipe or other data.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; give a folder for the run")
    if not out.is_dir():
        return
    present = {path.name for path in out.iterdir() if not is_unfinished(path)}
    if RECIPE not in present and (foreign := sorted(present - {LISTING, LOCK})):
        raise OutputError(f"{out} is not a run: it contains {_first(foreign)}; give a new or empty folder")
    for name in (RECIPE, LISTING, LOCK, STATE, MODEL, BEST, LOSSES, HELD_OUT):
        if name in present and not (out / name).is_file():
            raise OutputError(f"{out / name} is not a regular file; remove it, or give another folder")
    if not present & {STATE, MODEL, BEST}:  # nothing to lose, and nothing to be taken for a result of this run
        return
    _check_recipe(out, recipe, steps, saved)
    if LISTING in present and (differences := _changed_pairs(_read_listing(out / LISTING), listed)):
        raise OutputError(f"{out} is a run on other data: {_first(differences)}; {_WAY_OUT}")


_WAY_OUT = "give another folder, or run the same command as before to resume"


@contextmanager
def claimed(out: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Lock a run's folder within the context, and remove temporary files of a killed run.

    Args:
        out: the folder; created if missing.
        waiting: called once before waiting for another process; without it, a second process is refused.

    Raises:
        OutputError: the folder cannot be written, or another process is training in it.
    """
    busy = f"another process is training in {out}; wait for it, or give another folder"
    with locked(out, busy, waiting):
        remove_unfinished(out)
        yield


def describe_run(out: Path, recipe: Recipe, listed: str) -> None:
    """Write the recipe and data of a run to its folder.

    Raises:
        OutputError: it cannot be written.
    """
    digest = hashlib.sha256(_bytes(listed)).hexdigest()
    for name, text in ((LISTING, f"{listed}{_HASHED}{digest}\n"), (RECIPE, write_toml(recipe.table()))):
        with atomic_path(out / name) as temporary:
            temporary.write_bytes(_bytes(text))


def _check_recipe(out: Path, recipe: Recipe, steps: int, saved: Saved) -> None:
    old, new = identity(read_toml(out / RECIPE)), identity(recipe.table())
    changed = [key for key in sorted(old.keys() | new.keys()) if _plain(old.get(key)) != _plain(new.get(key))]
    longer = changed and set(changed) <= set(LENGTH) and steps > saved.steps
    if longer and saved.finished:
        return
    words = [f"{key} was {old.get(key, 'not set')!r}, is {new.get(key, 'not set')!r}" for key in changed]
    if longer:
        raise OutputError(
            f"{out} has done {saved.done:,} of {saved.steps:,} steps, and only a finished run can be lengthened "
            f"({_first(words)}); finish it first, with the same command as before"
        )
    if changed:
        raise OutputError(f"{out} is a run with another recipe: {_first(words)}; {_WAY_OUT}")


def _read_listing(path: Path) -> str:
    """Read a file written by `describe_run`.

    Raises:
        OutputError: it is damaged or cut short.
    """
    listed, mark, digest = path.read_bytes().rpartition(_HASHED.encode())
    if not mark or hashlib.sha256(listed).hexdigest() != digest.decode("ascii", "replace").strip():
        raise OutputError(f"{path} is damaged or truncated; remove it to resume without comparing the data with it")
    return listed.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # file names may have any bytes


def _changed_pairs(old: str, new: str) -> list[str]:
    before, after = ({line.partition("\t")[0]: line for line in text.split("\n") if line} for text in (old, new))
    return [
        *(f"{name} is gone" for name in before.keys() - after.keys()),
        *(f"{name} is new" for name in after.keys() - before.keys()),
        *(f"{name} has changed" for name in before.keys() & after.keys() if not _agree(before[name], after[name])),
    ]


def _agree(before: str, after: str) -> bool:
    """Whether two lines of a listing are the same; earlier versions recorded sizes without hashes."""
    return before in (after, re.sub(r"(\t\d+):[0-9a-f]{16}", r"\1", after))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _first(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return "; ".join(sorted(items)[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
