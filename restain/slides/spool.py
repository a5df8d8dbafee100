"""Keeps the finished tiles of an unfinished slide: an SQLite file in a folder beside the result.

A TIFF can be written neither out of order nor in two sittings. Finished tiles are therefore kept here, encoded, and are
copied into the TIFF when all are there. The spool is what a later run continues from after this one was killed: each
`put` is one transaction, in it entirely or not at all. Before each tile and note stands its hash, which SQLite does not
keep: a disk that changed a bit must not change a pixel.
"""

import hashlib
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from restain.errors import OutputError
from restain.slides.pyramid import Position

_HASH_BYTES = 16
_SIDE_BITS = 24
"""Rows and columns are numbers of up to this many bits in a tile's key; so keys sort by level, row and column."""


class Spool:
    """Encoded tiles by position, and notes by name, of one job; held by one process at a time."""

    def __init__(self, target: Path, job: str) -> None:
        """Open the spool of a result, or begin it.

        Args:
            target: the result; the spool is the folder `TARGET.spool` beside it.
            job: everything that the pixels depend on. What the spool holds of another job is thrown away.

        Raises:
            OutputError: the folder cannot be written, or another process holds the spool.
        """
        self.folder = target.with_name(f"{target.name}.spool")
        self._target = target
        self._lock = threading.Lock()
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._database = self._open()
            self.resumed = self.note("job") == job
            if not self.resumed:
                self._database.execute("DELETE FROM tiles")
                self._database.execute("DELETE FROM notes")
                self.set_note("job", job)

    def _open(self) -> sqlite3.Connection:
        # Exclusive: the lock stays until the process ends, however it ends.
        database = sqlite3.connect(self.folder / "tiles.sqlite", timeout=0.5, check_same_thread=False)
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        with database:
            database.execute("BEGIN EXCLUSIVE")
            database.execute("CREATE TABLE IF NOT EXISTS tiles (key INTEGER PRIMARY KEY, data BLOB NOT NULL)")
            database.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        return database

    def put(self, tiles: Iterable[tuple[Position, bytes]]) -> None:
        """Keep tiles; all of them are in the spool afterwards, or none.

        Raises:
            OutputError: the disk is full, for instance; what was kept before stays.
        """
        with self._explained(), self._lock, self._database:
            rows = ((_key(position), _hashed(_key(position), data)) for position, data in tiles)
            self._database.executemany("INSERT OR REPLACE INTO tiles VALUES (?, ?)", rows)

    def get(self, position: Position) -> bytes | None:
        """An encoded tile, or None where there is none.

        Raises:
            OutputError: it was changed since it was put; it is forgotten.
        """
        key = _key(position)
        with self._explained(), self._lock:
            row = self._database.execute("SELECT data FROM tiles WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._whole(key, row[0])

    def positions(self, level: int) -> set[Position]:
        """Where tiles of a level are kept."""
        with self._explained(), self._lock:
            rows = self._database.execute("SELECT key FROM tiles WHERE key BETWEEN ? AND ?", _range(level)).fetchall()
        return {_position(key) for (key,) in rows}

    def tiles(self, level: int) -> Iterator[tuple[Position, bytes]]:
        """The tiles of a level, row by row; the spool must rest until the last.

        Raises:
            OutputError: as in `get`.
        """
        query = "SELECT key, data FROM tiles WHERE key BETWEEN ? AND ? ORDER BY key"
        with self._explained():
            for key, data in self._database.execute(query, _range(level)):
                yield _position(key), self._whole(key, data)

    def _whole(self, key: int, kept: object) -> bytes:
        """A tile without its hash; one that was changed is forgotten, so that a later run makes it again."""
        if isinstance(kept, bytes) and _hashed(key, kept[_HASH_BYTES:]) == kept:
            return kept[_HASH_BYTES:]
        with self._explained(), self._lock, self._database:
            self._database.execute("DELETE FROM tiles WHERE key = ?", (key,))
        raise OutputError(
            f"a tile kept in {self.folder} was damaged on the disk and is dropped; run the same command to make it "
            "again, or delete the folder to start again"
        )

    def note(self, name: str) -> str | None:
        """What `set_note` kept; None where there is nothing, or it was changed since."""
        with self._explained(), self._lock:
            row = self._database.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        digest, _, value = str(row[0]).partition(" ") if row else ("", "", "")
        return value if digest and digest == _digest_of_note(name, value) else None

    def set_note(self, name: str, value: str) -> None:
        """Keep a word of text."""
        with self._explained(), self._lock, self._database:
            words = f"{_digest_of_note(name, value)} {value}"
            self._database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, words))

    def close(self) -> None:
        """Let go of the spool; it can be continued."""
        self._database.close()

    def remove(self) -> None:
        """Let go of the spool and delete it: the result is whole, or not wanted."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of SQLite and of the system into a sentence."""
        try:
            yield
        except OutputError:
            raise
        except (sqlite3.Error, OSError) as error:
            if "locked" in str(error):
                raise OutputError(
                    f"{self._target} is being written by another process; wait for it or end it"
                ) from error
            if any(words in str(error) for words in ("malformed", "not a database")):
                raise OutputError(f"{self.folder} is damaged ({error}); delete it and start again") from error
            raise OutputError(
                f"cannot write {self.folder}: {error}; make room on the disk or choose another place, "
                "the same command then continues where this one stopped"
            ) from error


def forget_spool(target: Path, job: str) -> None:
    """Delete what a run left behind that was killed after its result had got its name; not while another holds it."""
    if target.with_name(f"{target.name}.spool").is_dir():
        with suppress(OutputError):
            Spool(target, job).remove()


def _hashed(key: int, data: bytes) -> bytes:
    """A tile behind its hash, in which its place counts."""
    return hashlib.blake2b(data, digest_size=_HASH_BYTES, salt=key.to_bytes(16)).digest() + data


def _digest_of_note(name: str, value: str) -> str:
    return hashlib.blake2b(f"{name}\n{value}".encode(errors="surrogateescape"), digest_size=_HASH_BYTES).hexdigest()


def _key(position: Position) -> int:
    return (position.level << 2 * _SIDE_BITS) | (position.row << _SIDE_BITS) | position.column


def _position(key: int) -> Position:
    side = (1 << _SIDE_BITS) - 1
    return Position(key >> 2 * _SIDE_BITS, (key >> _SIDE_BITS) & side, key & side)


def _range(level: int) -> tuple[int, int]:
    return level << 2 * _SIDE_BITS, ((level + 1) << 2 * _SIDE_BITS) - 1
