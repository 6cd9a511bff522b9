"""The truth of a library: one SQLite file with its files, passages, keyword index and vectors.

Every change is a transaction, so a crash at any moment leaves the state before or after it. Knows no reader, no
embedder and no Chroma; vectors are bytes here, and `outbox` lists what Chroma has not been told yet.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.errors import BadInput, Closed, HanpacaError, LibraryBusy
from .terms import ANALYSIS

SCHEMA = "2"
BUSY_SECONDS = 20.0

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
    """Connections to one library file: one for each thread. `writable` is False on a read-only disk."""

    def __init__(self, path: Path, create: bool) -> None:
        self.path = path
        self.writable = True
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._counts: tuple[int, int, int] | None = None
        self._frequencies: tuple[int, dict[str, int]] = (-1, {})
        if create and not path.exists():
            with self._explained():
                self._create()
        self._check()

    def _create(self) -> None:
        connection = self.connection
        connection.execute("PRAGMA journal_mode = WAL")
        with self.write() as writing:
            for statement in _TABLES.strip().split(";\n"):
                writing.execute(statement)
            rows = [("schema", SCHEMA), ("analysis", ANALYSIS), ("identity", uuid.uuid4().hex), ("changes", "0")]
            writing.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", rows)

    def _check(self) -> None:
        with self._explained():
            found = self.connection.execute("SELECT name FROM sqlite_master WHERE name = 'meta'").fetchone()
            if not found:
                self._create()
            schema = self.meta("schema")
        if schema != SCHEMA:
            raise BadInput(
                f"The library in {self.path.parent} has format {schema}, this version reads {SCHEMA}.",
                "Ingest the documents into a new library.",
            )

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection. Raises `Closed` after `close`."""
        if self._closed:
            raise Closed("The library is closed.", "Open it again.")
        held = getattr(self._local, "connection", None)
        if held is None:
            held = self._local.connection = self._connect()
            with self._lock:
                self._all.append(held)
        return held

    def _connect(self) -> sqlite3.Connection:
        writable = os.access(self.path if self.path.exists() else self.path.parent, os.W_OK)
        writable = writable and os.access(self.path.parent, os.W_OK)
        # Where SQLite cannot make the files by which readers and writers agree, nobody else writes either.
        ways = ("mode=ro", "mode=ro&immutable=1")
        for query in ("mode=rwc", *ways) if writable else ways:
            uri = f"{self.path.absolute().as_uri()}?{query}"
            connection = sqlite3.connect(
                uri,
                uri=True,
                timeout=BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=256,
            )
            try:
                for setting in ("foreign_keys = ON", "synchronous = FULL", "secure_delete = ON", "cache_size = -65536"):
                    connection.execute(f"PRAGMA {setting}")
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
                self.writable = self.writable and query == "mode=rwc"
                return connection
            except sqlite3.OperationalError:
                connection.close()
                if query == ways[-1]:
                    raise
        raise AssertionError("one of the ways returns or raises")

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """One transaction, committed at the end, rolled back on any error."""
        connection = self.connection
        with self._explained():
            connection.execute("BEGIN IMMEDIATE")
            try:
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
        connection = self.connection
        if connection.in_transaction:
            yield connection
            return
        with self._explained():
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    def meta(self, key: str) -> str | None:
        """A remembered setting."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        """Remember a setting; inside `write` it is part of that transaction."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def changes(self) -> int:
        """A number that grows with every change by any process: the key of caches."""
        return int(self.meta("changes") or 0)

    def counts(self) -> tuple[int, int]:
        """How many passages and vectors there are; counted once for each state, for it reads whole tables."""
        changes = self.changes()
        known = self._counts  # another thread may be in another state
        if known is None or known[0] != changes:
            counts = [self.connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _COUNTED]
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
        with self._explained():
            self.connection.execute("VACUUM")
            busy, *_ = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
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
        """Close every thread's connection. Idempotent."""
        self._closed = True
        with self._lock:
            for connection in self._all:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
            self._all.clear()


def explain(error: Exception, path: Path) -> HanpacaError:
    """What went wrong with the library's disk, as an error that says what to do."""
    text = str(error)
    folder = path.parent
    if "full" in text or "I/O" in text or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
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
