"""Aligns every pair of a data set, keeping its layout and names.

`pairs.jsonl` has a line for each pair that is done; from it an interrupted run resumes. `pairs.csv`, which training
reads, and `left_out.csv` are written from it at the end.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from restain.data.layouts import LIST_NAME
from restain.errors import OutputError
from restain.folders import sampled_hash
from restain.image import atomic_path, remove_unfinished
from restain.registration.tile_pairs import AlignSettings, PairRow, PairVerdict, PlannedPair, align_pair, plan
from restain.workers.lock import LOCK, locked
from restain.workers.pool import Pool, Processes, TaskError

JOURNAL, LEFT_OUT = "pairs.jsonl", "left_out.csv"
_STAMP = "files"


@dataclass(frozen=True)
class AlignOutcome:
    """Results for a data set."""

    rows: Sequence[PairRow]
    """In the order of the data set."""
    failures: Mapping[str, str]
    """By part/name: why a pair could not be read or written."""

    def count(self, verdict: PairVerdict) -> int:
        """How many pairs have a verdict."""
        return sum(row.verdict == verdict for row in self.rows)


def align_data_set(
    root: Path,
    out: Path,
    settings: AlignSettings | None = None,
    *,
    pool: Pool | None = None,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> AlignOutcome:
    """Align the pairs of a data set, or resume an earlier run.

    Args:
        root: the data set, in any of `restain.data.layouts.LAYOUTS`.
        out: a new folder, or that of an interrupted run with the same settings.
        settings: the defaults if not given.
        pool: where the work is done.
        on_progress: called with pairs done and pairs in all; first with what earlier runs have done.

    Raises:
        MissingError, InputError: the data set cannot be used.
        OutputError: `out` cannot be written, holds something else, or is being written by another process.
    """
    settings, pool = settings or AlignSettings(), pool or Processes()
    places = plan(root)
    inside = root if root.is_dir() else root.parent
    if inside.resolve() in (out.resolve(), *out.resolve().parents) and out.resolve() != inside.resolve().parent:
        raise OutputError(f"{out} is inside the data set; give a folder elsewhere")
    with locked(out, f"{out} is being written by another process; wait for it, or choose another place"):
        remove_unfinished(out)
        stamps = {place.name: _stamp(place) for place in places}
        journal = PairJournal(out, {"root": str(root.absolute()), "settings": asdict(settings)})
        journal.forget_changed(stamps)
        waiting = [place for place in places if place.name not in journal.rows]
        failures: dict[str, str] = {}
        on_progress(len(journal.rows), len(places))
        calls = [(_absolute(place), out.absolute(), settings) for place in waiting]
        for index, result in pool.each(align_pair, calls):
            if isinstance(result, TaskError):
                failures[waiting[index].name] = str(result)
            else:
                journal.add(result, stamps[result.name])
            on_progress(len(journal.rows) + len(failures), len(places))
        journal.put_in_order([place.name for place in places])
        rows = list(journal.rows.values())
        write_table(out / LIST_NAME, [row for row in rows if row.verdict != "left out"])
        write_table(out / LEFT_OUT, [row for row in rows if row.verdict == "left out"])
    return AlignOutcome(rows, failures)


_DAMAGED = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class PairJournal:
    """The finished pairs as lines of JSON, after a header.

    Args:
        folder: where `JOURNAL` lies, or will; otherwise empty.
        about: what must be the same for a run to resume.

    Raises:
        OutputError: the folder holds something else.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self._path = folder / JOURNAL
        self.rows: dict[str, PairRow] = {}
        """By part/name."""
        self._stamps: dict[str, str] = {}
        self._header = header = json.dumps(about, ensure_ascii=False)
        if not self._path.exists():
            if any(path.name != LOCK for path in folder.iterdir()):
                raise OutputError(f"{folder} is not empty; give a new folder, or remove what it holds")
            self._rewrite([header])
            return
        if not self._path.is_file():
            raise OutputError(f"{self._path} is not a plain file; remove it and run the same command again")
        lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        if lines[:1] != [header]:
            raise OutputError(
                f"{folder} was begun from another data set or with other settings; repeat those, or give a new folder"
            )
        for line in lines[1:]:
            try:
                content = json.loads(line)
                stamp = content.pop(_STAMP, "")
                row = PairRow.of(content)
            except _DAMAGED:  # the last one, cut short when the run was killed
                break
            self.rows[row.name], self._stamps[row.name] = row, str(stamp)
        self.put_in_order(list(self.rows))

    def forget_changed(self, stamps: Mapping[str, str]) -> None:
        """Drop the rows of pairs whose files have changed, by name; earlier versions did not record stamps."""
        for name, stamp in stamps.items():
            if self._stamps.get(name, "") not in ("", stamp):
                self.rows.pop(name, None)

    def add(self, row: PairRow, stamp: str = "") -> None:
        """Write down what became of a pair, and the stamp of its files.

        Raises:
            OutputError: it cannot be written.
        """
        self.rows[row.name], self._stamps[row.name] = row, stamp
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(self._line(row) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror}; check the disk") from error

    def put_in_order(self, names: Sequence[str]) -> None:
        """Write the rows that are there once more, in the order of these names: several processes finish as they come.

        Raises:
            OutputError: they cannot be written.
        """
        self.rows = {name: self.rows[name] for name in names if name in self.rows}
        self._rewrite([self._header, *map(self._line, self.rows.values())])

    def _line(self, row: PairRow) -> str:
        stamp = self._stamps.get(row.name)
        return json.dumps(row.content() | ({_STAMP: stamp} if stamp else {}), ensure_ascii=False)

    def _rewrite(self, lines: Sequence[str]) -> None:
        with atomic_path(self._path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_table(path: Path, rows: Sequence[PairRow]) -> None:
    """Write rows as CSV; without any there is no file.

    Raises:
        OutputError: it cannot be written.
    """
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0].cells()), lineterminator="\n")
    table.writeheader()
    table.writerows(row.cells() for row in rows)
    with atomic_path(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def _stamp(place: PlannedPair) -> str:
    """Hashes of the files of a pair, its case and its grade, to tell if it has changed; empty if one is unreadable."""
    pair, judge = place.pair, place.pair.in_register()
    try:
        files = [sampled_hash(path) for path in (pair.he, pair.ihc, *((judge.ihc,) if judge else ()))]
    except OSError:
        return ""
    return "; ".join([*files, f"{pair.case} {pair.grade}"])


def _absolute(place: PlannedPair) -> PlannedPair:
    """The same, for a process that starts elsewhere."""
    pair = replace(place.pair, he=place.pair.he.absolute(), ihc=place.pair.ihc.absolute())
    return replace(place, pair=pair)
