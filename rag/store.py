"""The truth of a library: one SQLite file with its files, passages, keyword index and vectors.

Every change is a transaction, so a crash at any moment leaves the state before or after it. Knows no reader, no
embedder and no Chroma; vectors are bytes here, and `outbox` lists what Chroma has not been told yet.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import BadInput, HanpacaError, LibraryBusy
from .connections import Connections
from .terms import ANALYSIS

SCHEMA = "2"

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, origin TEXT NOT NULL, kind TEXT NOT NULL,
    title TEXT NOT NULL, encoding TEXT, size INTEGER NOT NULL, modified INTEGER NOT NULL, checked INTEGER NOT NULL,
    digest BLOB NOT NULL, warnings TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS files_digest ON files (digest);
CREATE TABLE IF NOT EXISTS failures (
    path TEXT PRIMARY KEY, size INTEGER NOT NULL, modified INTEGER NOT NULL, version TEXT NOT NULL,
    message TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, file INTEGER NOT NULL REFERENCES files (id), position INTEGER NOT NULL,
    gap TEXT NOT NULL, text TEXT NOT NULL, start INTEGER NOT NULL, end INTEGER NOT NULL, page TEXT, pages TEXT NOT NULL,
    line INTEGER NOT NULL, headings TEXT NOT NULL, language TEXT NOT NULL, digest BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS passages_place ON passages (file, position);
CREATE INDEX IF NOT EXISTS passages_digest ON passages (digest);
CREATE TABLE IF NOT EXISTS vectors (passage INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (
    number INTEGER PRIMARY KEY AUTOINCREMENT, passage INTEGER NOT NULL, added INTEGER NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS keywords USING fts5 (
    body, context, content = '', tokenize = 'unicode61 remove_diacritics 0');
CREATE VIRTUAL TABLE IF NOT EXISTS vocabulary USING fts5vocab (keywords, 'row');
"""


_COUNTED = ("passages", "vectors")


class Store:
    """One library's file, which any thread may use."""

    def __init__(self, path: Path, create: bool) -> None:
        self.path = path
        self._connections = Connections(path)
        self._counts: tuple[int, int, int] | None = None
        self._frequencies: tuple[int, dict[str, int]] = (-1, {})
        if create and not path.exists():
            with self._explained():
                self._create()
        self._check()

    def _create(self) -> None:
        self.rows("PRAGMA journal_mode = WAL")
        with self.write() as writing:
            for statement in _TABLES.strip().split(";\n"):
                writing.execute(statement)
            rows = [("schema", SCHEMA), ("analysis", ANALYSIS), ("identity", uuid.uuid4().hex), ("changes", "0")]
            writing.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", rows)

    def _check(self) -> None:
        with self._explained():
            if not self.rows("SELECT name FROM sqlite_master WHERE name = 'meta'"):
                self._create()
            schema = self.meta("schema")
        if schema != SCHEMA:
            raise BadInput(
                f"The library in {self.path.parent} has format {schema}, this version reads {SCHEMA}.",
                "Ingest the documents into a new library.",
            )

    @property
    def writable(self) -> bool:
        """False on a read-only disk."""
        return self._connections.writable

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, committed at the end, rolled back on any error."""
        with self._connections.using() as connection, self._explained():
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'changes'")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A view that stays the same while another process writes."""
        with self._connections.using() as connection:
            if connection.in_transaction:
                yield connection
                return
            with self._explained():
                try:
                    connection.execute("BEGIN")
                    yield connection
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one statement."""
        with self._connections.using() as connection:
            return connection.execute(statement, parameters).fetchall()

    def back_up(self, target: sqlite3.Connection) -> None:
        """Copy the file into another, as it is at one moment."""
        with self._connections.using() as connection:
            connection.backup(target)

    def meta(self, key: str) -> str | None:
        """A remembered setting."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return str(found[0][0]) if found else None

    def set_meta(self, key: str, value: str) -> None:
        """Remember a setting; inside `write` it is part of that transaction."""
        self.rows("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def changes(self) -> int:
        """A number that grows with every change by any process: the key of caches."""
        return int(self.meta("changes") or 0)

    def counts(self) -> tuple[int, int]:
        """How many passages and vectors there are; counted once for each state, for it reads whole tables."""
        changes = self.changes()
        known = self._counts  # another thread may be in another state
        if known is None or known[0] != changes:
            counts = [self.rows(f"SELECT count(*) FROM {name}")[0][0] for name in _COUNTED]
            known = self._counts = (changes, counts[0], counts[1])
        return known[1:]

    def frequencies(self) -> dict[str, int]:
        """Term → passages that hold it, as far as somebody has counted in this state of the library."""
        changes = self.changes()
        known = self._frequencies  # another thread may be in another state
        if known[0] != changes:
            known = self._frequencies = (changes, {})
        return known[1]

    def compact(self) -> bool:
        """Write the file anew without its free pages, and empty the log: what was deleted is in neither.

        False where another process is in the middle of reading and needs the log.
        """
        with self._connections.using() as connection, self._explained():
            connection.execute("VACUUM")
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's and the disk's errors, in words for the user."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise explain(error, self.path) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
                raise explain(error, self.path) from error
            raise

    def close(self) -> None:
        """Close every thread's connection, when it is not in use. Idempotent."""
        self._connections.close()


_ROOM = 1 << 16
"""Bytes that a write needs at least."""


def is_full(error: Exception) -> bool:
    """Whether the disk is full, or fails."""
    text = str(error)
    return "full" in text or "I/O" in text or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


def explain(error: Exception, path: Path) -> HanpacaError:
    """What went wrong with the library's disk, as an error that says what to do."""
    text = str(error)
    folder = path.parent
    # SQLite opens a library read-only where it finds no room for the files by which processes agree.
    no_room = "readonly" in text and folder.is_dir() and shutil.disk_usage(folder).free < _ROOM
    if no_room or is_full(error):
        return HanpacaError(
            f"The disk is full or failing ({text}); the library in {folder} kept every file that was finished.",
            "Free some space and run the same command again: it goes on from there.",
        )
    if "locked" in text or "busy" in text:
        return LibraryBusy(
            f"Another process is writing to the library in {folder}.", "Wait until it has finished and try again."
        )
    if "readonly" in text or "read-only" in text or "unable to open" in text or isinstance(error, OSError):
        return BadInput(
            f"The library folder {folder} cannot be written.", "Change its permissions or choose another folder."
        )
    return BadInput(
        f"The library file {path} cannot be used: {text}.", "Restore a backup, or delete the folder and ingest again."
    )


def placeholders(values: Any) -> str:
    """ "?, ?, ?" for a statement's IN (…)."""
    return ", ".join("?" * len(values))
