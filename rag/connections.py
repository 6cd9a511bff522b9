"""Connections to one SQLite file: one for each thread, and closed when nobody is in the middle of using one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import Closed

BUSY_SECONDS = 20.0


@dataclass
class _Held:
    """One thread's connection. While the thread is in the middle of using it, it holds the lock: `close` waits."""

    connection: sqlite3.Connection
    lock: threading.RLock = field(default_factory=threading.RLock)
    depth: int = 0
    """How many blocks use it, one inside the other."""


class Connections:
    """Of one library. `writable` is False on a read-only disk."""

    def __init__(self, path: Path) -> None:
        self.writable = True
        self._path = path
        self._local = threading.local()
        self._all: list[_Held] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection, not closed before the end of the block. Raises `Closed` after `close`."""
        held: _Held | None = getattr(self._local, "held", None)
        if held is None:
            held = self._open()
        with held.lock:
            if not held.depth:  # what is under way may end
                self._raise_if_closed()
            held.depth += 1
            try:
                yield held.connection
            finally:
                held.depth -= 1

    def _open(self) -> _Held:
        with self._lock:
            self._raise_if_closed()
            held = self._local.held = _Held(self._connect())
            self._all.append(held)
            return held

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise Closed("The library is closed.", "Open it again.")

    def _connect(self) -> sqlite3.Connection:
        writable = os.access(self._path if self._path.exists() else self._path.parent, os.W_OK)
        writable = writable and os.access(self._path.parent, os.W_OK)
        # Where SQLite cannot make the files by which readers and writers agree, nobody else writes either.
        ways = ("mode=ro", "mode=ro&immutable=1")
        for query in ("mode=rwc", *ways) if writable else ways:
            uri = f"{self._path.absolute().as_uri()}?{query}"
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

    def close(self) -> None:
        """Close every thread's connection. Idempotent.

        Waits for threads in the middle of a transaction or a statement; what they ask next raises `Closed`. One that
        takes longer than `BUSY_SECONDS` keeps its connection until it ends.
        """
        with self._lock:
            self._closed = True
            held, self._all = self._all, []
        end = time.monotonic() + BUSY_SECONDS
        for one in held:
            if one.lock.acquire(timeout=max(0.0, end - time.monotonic())):
                try:
                    with contextlib.suppress(sqlite3.Error):
                        one.connection.close()
                finally:
                    one.lock.release()
