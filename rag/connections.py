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
from ..core.forks import Home

BUSY_SECONDS = 20.0
LIBRARY_HOME = Home("a library")
"""SQLite's locks are the process's own: a fork that writes may spoil the file, even by a connection of its own."""


def closed() -> Closed:
    """What whoever asks a closed library is told."""
    return Closed("The library is closed.", "Open it again.")


@dataclass(eq=False)
class _Held:
    """One thread's connection. While the thread is in the middle of using it, it holds the lock: others wait."""

    connection: sqlite3.Connection
    thread: threading.Thread = field(default_factory=threading.current_thread)
    lock: threading.RLock = field(default_factory=threading.RLock)
    depth: int = 0
    """How many blocks use it, one inside the other."""

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()


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
        """This thread's connection, not closed before the end of the block. Raises `Closed` after `close`.

        The block must end in the thread in which it began: no generator may be left in the middle of one.
        """
        LIBRARY_HOME.enter()
        held: _Held | None = getattr(self._local, "held", None)
        if held is None:
            held = self._local.held = self._open()
        with held.lock:
            held.depth += 1
            try:
                if held.depth == 1:  # what is under way may end
                    self._raise_if_closed()
                yield held.connection
            finally:
                held.depth -= 1
                if self._closed and not held.depth:  # nobody else waits for it any more
                    held.close()

    def _open(self) -> _Held:
        self._raise_if_closed()
        held = _Held(self._connect())
        with self._lock:
            ended = [one for one in self._all if not one.thread.is_alive()]
            self._all = [one for one in self._all if one not in ended] + [held]
        for one in ended:
            one.close()
        return held

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise closed()

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

        Waits up to `BUSY_SECONDS` for threads in the middle of a transaction or a statement. One that takes longer, and
        one's own, ends and is closed then. Whatever is asked next raises `Closed`.
        """
        with self._lock:
            self._closed = True
            everyone = list(self._all)
        end = time.monotonic() + BUSY_SECONDS
        for one in everyone:
            if one.lock.acquire(timeout=max(0.0, end - time.monotonic())):
                try:
                    if not one.depth:
                        one.close()
                finally:
                    one.lock.release()
