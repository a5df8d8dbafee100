"""Stores the finished tiles of an unfinished slide in an SQLite file, in a folder beside the result.

A TIFF cannot be written out of order or by several runs. Finished tiles are therefore stored here, encoded, and copied
to the TIFF when all are finished. A later run resumes from the spool: each `put` is one transaction. Each tile and note
is stored with its hash, because SQLite does not detect flipped bits.
"""

import hashlib
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from restain.errors import InUseError, OutputError
from restain.slides.pyramid import Position

_FILE = "tiles.sqlite"
_HASH_BYTES = 16
_SIDE_BITS = 24
"""Bits of rows and columns in a tile's key, so that keys sort by level, row and column."""
_PATIENCE_S = 1.0
"""Seconds between two looks whether another process still has a spool."""


class Spool:
    """Encoded tiles by position, notes by name, and other files, of one job; locked by one process at a time."""

    def __init__(self, target: Path, job: str) -> None:
        """Open or create the spool of a result.

        Args:
            target: the result; the spool is the folder `TARGET.spool` beside it.
            job: everything that the pixels depend on. Contents of another job are deleted.

        Raises:
            OutputError: the folder cannot be written.
            InUseError: another process has the spool.
        """
        self.folder = _folder(target)
        self._target = target
        self._lock = threading.Lock()
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._database = self._open()
            self.resumed = self.note("job") == job
            if not self.resumed:
                self._clear()
                self.set_note("job", job)

    def _clear(self) -> None:
        """Delete the tiles, notes and files of another job."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif not path.name.startswith(_FILE):  # the database and its journal
                path.unlink()
        self._database.execute("DELETE FROM tiles")
        self._database.execute("DELETE FROM notes")

    def _open(self) -> sqlite3.Connection:
        # exclusive: the lock is held until the process ends for any reason
        database = sqlite3.connect(self.folder / _FILE, timeout=0.5, check_same_thread=False)
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        with database:
            database.execute("BEGIN EXCLUSIVE")
            database.execute("CREATE TABLE IF NOT EXISTS tiles (key INTEGER PRIMARY KEY, data BLOB NOT NULL)")
            database.execute("CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        return database

    def put(self, tiles: Iterable[tuple[Position, bytes]]) -> None:
        """Store tiles, all or none.

        Raises:
            OutputError: the disk is full, for instance; earlier tiles are kept.
        """
        with self._explained(), self._lock, self._database:
            rows = ((_key(position), _hashed(_key(position), data)) for position, data in tiles)
            self._database.executemany("INSERT OR REPLACE INTO tiles VALUES (?, ?)", rows)

    def get(self, position: Position) -> bytes | None:
        """An encoded tile, or None if there is none.

        Raises:
            OutputError: it is damaged; it is dropped.
        """
        key = _key(position)
        with self._explained(), self._lock:
            row = self._database.execute("SELECT data FROM tiles WHERE key = ?", (key,)).fetchone()
        return None if row is None else self._whole(key, row[0])

    def positions(self, level: int) -> set[Position]:
        """Positions of the stored tiles of a level."""
        with self._explained(), self._lock:
            rows = self._database.execute("SELECT key FROM tiles WHERE key BETWEEN ? AND ?", _range(level)).fetchall()
        return {_position(key) for (key,) in rows}

    def tiles(self, level: int) -> Iterator[tuple[Position, bytes]]:
        """The tiles of a level, row by row; the spool must not change until the last.

        Raises:
            OutputError: as in `get`.
        """
        query = "SELECT key, data FROM tiles WHERE key BETWEEN ? AND ? ORDER BY key"
        with self._explained():
            for key, data in self._database.execute(query, _range(level)):
                yield _position(key), self._whole(key, data)

    def _whole(self, key: int, kept: object) -> bytes:
        """A tile without its hash; a damaged one is dropped, so that a later run makes it again."""
        if isinstance(kept, bytes) and _hashed(key, kept[_HASH_BYTES:]) == kept:
            return kept[_HASH_BYTES:]
        with self._explained(), self._lock, self._database:
            self._database.execute("DELETE FROM tiles WHERE key = ?", (key,))
        raise OutputError(
            f"a tile in {self.folder} is damaged on the disk and was dropped; run the same command to make it "
            "again, or delete the folder to start again"
        )

    def note(self, name: str) -> str | None:
        """A note from `set_note`; None if there is none, or it is damaged."""
        with self._explained(), self._lock:
            row = self._database.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        digest, _, value = str(row[0]).partition(" ") if row else ("", "", "")
        return value if digest and digest == _digest_of_note(name, value) else None

    def set_note(self, name: str, value: str) -> None:
        """Store a text."""
        with self._explained(), self._lock, self._database:
            words = f"{_digest_of_note(name, value)} {value}"
            self._database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, words))

    def close(self) -> None:
        """Close the spool; it can be resumed."""
        self._database.close()

    def remove(self) -> None:
        """Close and delete the spool, because the result is complete or not wanted."""
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
        """Raise errors of SQLite and of the system as restain errors."""
        try:
            yield
        except OutputError:
            raise
        except (sqlite3.Error, OSError) as error:
            if "locked" in str(error):
                raise InUseError(self._target) from error
            if any(words in str(error) for words in ("malformed", "not a database")):
                raise OutputError(f"{self.folder} is damaged ({error}); delete it and start again") from error
            raise OutputError(
                f"cannot write {self.folder}: {error}; free disk space or choose another folder, "
                "then run the same command to resume"
            ) from error


def forget_spool(target: Path, job: str) -> None:
    """Delete the spool of a run that was killed after its result was complete, unless another process has it."""
    if _folder(target).is_dir():
        with suppress(OutputError):
            Spool(target, job).remove()


def wait_for_spool(target: Path) -> None:
    """Wait until no other process has the spool of a result, because it has finished, failed or been killed."""
    file = (_folder(target) / _FILE).absolute()
    while True:
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=0)) as database:
                database.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                time.sleep(_PATIENCE_S)
                continue
        return


def _folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.spool")


def _hashed(key: int, data: bytes) -> bytes:
    """A tile after its hash, which includes its position."""
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
