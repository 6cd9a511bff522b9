"""Nearest vectors: Chroma's index of a library, and an exact scan where Chroma cannot be had.

Chroma holds ids and vectors and nothing else. Only one process at a time may have its folder open (several lose data
without an error), so the first one holds a lock and the others scan the vectors in SQLite. It can be thrown away at
any time: SQLite has every vector, and `outbox` every change that Chroma has not seen. Knows no text and no embedder.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput, EngineUnavailable
from .store import Store, placeholders

BATCH = 5_000
"""Chroma takes at most 5,461 at once."""
PATIENCE = 2_000
"""A search lets Chroma catch up by at most so many changes; behind further, it scans."""
SAMPLE, LEAST_SAMPLE = 300, 20
LEAST_SPREAD, DEFAULT_SPREAD = 0.005, 0.02
GROUPS = ("zh", "other")
"""Chinese and other passages are ranked apart: a question's own language would crowd out the other one."""
Ranking = list[tuple[int, float]]
"""(passage, cosine), best first."""


def group_of(language: str) -> str:
    """The group of a language as `terms.language_of` names it."""
    return "zh" if language == "zh" else "other"


class VectorIndex:
    """The vectors of one library. Thread-safe."""

    def __init__(self, store: Store, folder: Path, server: str | None = None) -> None:
        self._store = store
        self._folder = folder / "chroma"
        self._server = server
        self._lock = threading.RLock()
        self._held: Any = None
        self._collections: dict[str, Any] = {}
        self._client: Any = None
        self._spread: tuple[int, float] | None = None
        self._matrix: tuple[int, dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]] | None = None

    def nearest(self, query: NDArray[np.float32], counts: Mapping[str, int]) -> dict[str, Ranking]:
        """For each group, as many passages of the largest cosine as `counts` says."""
        with self._lock:
            if self.open() and self._catch_up(PATIENCE):
                try:
                    return {group: self._ask_chroma(group, query, count) for group, count in counts.items()}
                except Exception:  # Chroma's errors are many and undocumented; the scan needs none of it.
                    self._abandon()
            matrices = self._all()
        return {group: _best(ids, matrix @ query, counts[group]) for group, (ids, matrix) in matrices.items()}

    def nearest_among(
        self, query: NDArray[np.float32], counts: Mapping[str, int], among: Sequence[int]
    ) -> dict[str, Ranking]:
        """The same out of these passages only, computed exactly."""
        found: dict[str, Ranking] = {}
        with self._store.read() as reading:
            rows = _read(reading, among)
        for group in GROUPS:
            ids, matrix = _unpack([row for row in rows if group_of(row[2]) == group])
            found[group] = _best(ids, matrix @ query, counts[group]) if len(ids) else []
        return found

    def of(self, passages: Sequence[int]) -> dict[int, NDArray[np.float32]]:
        """The vectors of these passages; those without one are missing."""
        ids, matrix = _unpack(_read(self._store.connection, passages))
        return {int(number): vector for number, vector in zip(ids, matrix, strict=True)}

    def spread(self, fresh: bool = False) -> float:
        """The standard deviation of the cosines between this library's passages, from a sample of them.

        Models differ widely in it, and what a difference of two cosines means depends on it. The figure of the last
        calibration is used until the next, for its thresholds are in these units.
        """
        known = json.loads(self._store.meta("calibration") or "{}").get("spread")
        if known is not None and not fresh:
            return float(known)
        with self._lock:
            changes = self._store.changes()
            if self._spread is None or self._spread[0] != changes:
                self._spread = (changes, self._measure_spread())
            return self._spread[1]

    def _measure_spread(self) -> float:
        """In the larger group: cosines across languages are lower, and would say something else."""
        ids = [row[0] for row in self._store.connection.execute("SELECT passage FROM vectors ORDER BY passage")]
        rows = _read(self._store.connection, ids[:: max(1, len(ids) // SAMPLE)])
        parts = [[row for row in rows if group_of(row[2]) == group] for group in GROUPS]
        _, sample = _unpack(max(parts, key=len))
        if len(sample) < LEAST_SAMPLE:
            return DEFAULT_SPREAD
        return max(float((sample @ sample.T)[np.triu_indices(len(sample), 1)].std()), LEAST_SPREAD)

    def _ask_chroma(self, group: str, query: NDArray[np.float32], count: int) -> Ranking:
        found = self._collections[group].query(query_embeddings=query[None, :], n_results=count, include=["distances"])
        return [
            (int(name), 1.0 - float(distance))
            for name, distance in zip(found["ids"][0], found["distances"][0], strict=True)
        ]

    def _all(self) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Every vector in SQLite, kept in memory until the library changes."""
        with self._store.read() as reading:
            changes = self._store.changes()
            if self._matrix is None or self._matrix[0] != changes:
                rows = reading.execute(f"{_SELECT} ORDER BY v.passage").fetchall()
                parts = {group: [row for row in rows if group_of(row[2]) == group] for group in GROUPS}
                self._matrix = (changes, {group: _unpack(part) for group, part in parts.items() if part})
            return self._matrix[1]

    def open(self) -> bool:
        """Whether Chroma is open in this process; tries once."""
        with self._lock:
            if self._collections:
                return True
            if self._held is False or not self._store.writable:
                return False
            if self._held is None:
                self._held = self._hold()
            if self._held is False:
                return False
            try:
                self._connect()
            except Exception as error:
                if self._server:
                    raise EngineUnavailable(
                        f"The Chroma server at {self._server} does not answer: {error}", "Start it with `chroma run`."
                    ) from error
                self._start_afresh()
            return bool(self._collections)

    def _hold(self) -> Any:
        import filelock

        self._folder.mkdir(exist_ok=True)
        lock = filelock.FileLock(self._folder / "lock", timeout=0)
        try:
            lock.acquire()
        except (filelock.Timeout, OSError):
            return False
        return lock

    def _connect(self) -> None:
        import chromadb
        from chromadb.config import Settings

        settings = Settings(anonymized_telemetry=False)
        if self._server:
            parts = urlsplit(self._server)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise BadInput(f"{self._server!r} is no address of a Chroma server.", "Write http://HOST:PORT.")
            self._client = chromadb.HttpClient(
                parts.hostname, parts.port or 8000, ssl=parts.scheme == "https", settings=settings
            )
        else:
            self._client = chromadb.PersistentClient(self._generation(), settings=settings)
        collections = {
            group: self._client.get_or_create_collection(
                f"hanpaca-{self._store.meta('identity')}-{group}",
                embedding_function=None,
                configuration={"hnsw": {"space": "ip", "ef_search": 200, "ef_construction": 200}},
            )
            for group in GROUPS
        }
        held = sum(collection.count() for collection in collections.values())
        if self._applied() == self._last() and held != self._count():
            raise RuntimeError("Chroma and SQLite disagree")
        self._collections = collections

    def _generation(self) -> Path:
        """The folder in use: each new start has a new one, for a process may still have the old one open."""
        found = sorted(path for path in self._folder.iterdir() if path.is_dir() and path.name.isdigit())
        for old in found[:-1]:
            shutil.rmtree(old, ignore_errors=True)
        return found[-1] if found else self._folder / "0001"

    def _start_afresh(self) -> None:
        """Throw Chroma's files away and open empty ones; `catch_up` fills them from SQLite."""
        old = self._generation()
        self._disconnect()
        with contextlib.suppress(FileNotFoundError):
            (self._folder / "applied").unlink()
        (self._folder / f"{int(old.name) + 1:04}").mkdir()
        with contextlib.suppress(Exception):
            self._connect()
        shutil.rmtree(old, ignore_errors=True)

    def catch_up(self) -> None:
        """Tell Chroma of every change. Nothing happens where another process has it open."""
        with self._lock:
            if self.open():
                self._catch_up(None)

    def _catch_up(self, patience: int | None) -> bool:
        """Whether Chroma knows everything; gives up where more than `patience` changes wait."""
        last, applied = self._last(), self._applied()
        if applied == last:
            return True
        if applied is None:
            return self._fill(last, patience)
        rows = self._store.connection.execute(
            "SELECT passage, added FROM outbox WHERE number > ? AND number <= ? ORDER BY number", (applied, last)
        ).fetchall()
        if len(rows) != last - applied and not self._is_whole(applied):
            return self._fill(last, patience)
        if patience is not None and len(rows) > patience:
            return False
        wanted = dict(rows)
        self._remove([passage for passage, added in wanted.items() if not added])
        self._add([passage for passage, added in wanted.items() if added])
        self._set_applied(last)
        return True

    def _is_whole(self, applied: int) -> bool:
        """Whether no change after `applied` was pruned from the outbox."""
        return applied >= int(self._store.meta("pruned") or 0)

    def _fill(self, last: int, patience: int | None) -> bool:
        count = self._count()
        if patience is not None and count > patience:
            return False
        for collection in self._collections.values():
            names = collection.get(include=[])["ids"]
            for at in range(0, len(names), BATCH):
                collection.delete(ids=names[at : at + BATCH])
        self._add([row[0] for row in self._store.connection.execute("SELECT passage FROM vectors ORDER BY passage")])
        self._set_applied(last)
        return True

    def _add(self, passages: Sequence[int]) -> None:
        for at in range(0, len(passages), BATCH):
            rows = _read(self._store.connection, passages[at : at + BATCH])
            for group, collection in self._collections.items():
                ids, matrix = _unpack([row for row in rows if group_of(row[2]) == group])
                if len(ids):
                    collection.upsert(ids=[str(number) for number in ids], embeddings=matrix)

    def _remove(self, passages: Sequence[int]) -> None:
        for at in range(0, len(passages), BATCH):
            for collection in self._collections.values():
                collection.delete(ids=[str(number) for number in passages[at : at + BATCH]])

    def purge(self) -> None:
        """Leave no deleted vector in any file: Chroma only marks them, so it starts afresh from SQLite."""
        with self._lock:
            self._matrix = None
            if self._server is None and self.open():
                self._start_afresh()
            self.catch_up()

    def _last(self) -> int:
        row = self._store.connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return int(row[0]) if row else 0

    def _count(self) -> int:
        return int(self._store.connection.execute("SELECT count(*) FROM vectors").fetchone()[0])

    def _applied(self) -> int | None:
        """The number of the last change that Chroma has; None where it was never filled."""
        try:
            return int((self._folder / "applied").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _set_applied(self, number: int) -> None:
        new = self._folder / "applied.new"
        new.write_text(str(number))
        new.replace(self._folder / "applied")

    def _disconnect(self) -> None:
        client, self._client, self._collections = self._client, None, {}
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()

    def _abandon(self) -> None:
        """After an error: drop Chroma's files, so that the next opening builds new ones."""
        if self._server is None:
            with contextlib.suppress(OSError):
                self._start_afresh()
        else:
            self._disconnect()

    def close(self) -> None:
        """Close Chroma and let other processes have it. Idempotent."""
        with self._lock:
            self._disconnect()
            if self._held not in (None, False):
                self._held.release()
            self._held = False
            self._matrix = None


def pack(vector: NDArray[np.float32]) -> bytes:
    """A vector as SQLite keeps it: half precision moves a cosine by less than .001."""
    return vector.astype(np.float16).tobytes()


_SELECT = "SELECT v.passage, v.vector, p.language FROM vectors v JOIN passages p ON p.id = v.passage"
Row = tuple[int, bytes, str]


def _read(reading: sqlite3.Connection, passages: Sequence[int]) -> list[Row]:
    rows: list[Row] = []
    for at in range(0, len(passages), 10_000):
        part = passages[at : at + 10_000]
        statement = f"{_SELECT} WHERE v.passage IN ({placeholders(part)}) ORDER BY v.passage"
        rows += reading.execute(statement, tuple(part)).fetchall()
    return rows


def _unpack(rows: Sequence[Row]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    matrix = np.frombuffer(b"".join(row[1] for row in rows), np.float16).astype(np.float32)
    return ids, matrix.reshape(len(rows), -1) if rows else matrix.reshape(0, 0)


def _best(ids: NDArray[np.int64], scores: NDArray[np.float32], count: int) -> Ranking:
    """The largest first, ties by number: a partition first, for sorting 100,000 would take longer than the rest."""
    if len(ids) > count:
        chosen = np.argpartition(-scores, count)[:count]
        ids, scores = ids[chosen], scores[chosen]
    order = np.lexsort((ids, -scores))
    return [(int(ids[at]), float(scores[at])) for at in order]
