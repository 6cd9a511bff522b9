"""Nearest vectors of a library: all of them compared while they are few, Chroma's index where they are many.

Comparing everything is exact, and up to some ten thousand vectors as fast as an index and far faster than loading one.
It is also what is left where Chroma cannot be had. Knows no text and no embedder.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .chroma_index import ChromaIndex
from .connections import closed
from .store import Store
from .vector_rows import GROUPS, SELECT, Ranking, best, group_of, read_vectors, unpack

COMPARED = 20_000
"""Up to so many vectors all are compared, which takes some milliseconds."""
SAMPLE, LEAST_SAMPLE = 300, 20
LEAST_SPREAD, DEFAULT_SPREAD = 0.005, 0.02
Matrices = dict[str, tuple[NDArray[np.int64], NDArray[np.float32]]]
"""Group → (passages, matrix)."""


class VectorIndex:
    """The vectors of one library. Thread-safe."""

    def __init__(self, store: Store, folder: Path, server: str | None = None) -> None:
        self._store = store
        self._chroma = ChromaIndex(store, folder, server)
        self._lock = threading.RLock()
        self._spread: tuple[int, float] | None = None
        self._matrices: tuple[int, Matrices] | None = None
        self._closed = False

    def nearest(
        self, query: NDArray[np.float32], counts: Mapping[str, int], meanwhile: Callable[[], None]
    ) -> dict[str, Ranking]:
        """For each group, as many passages of the largest cosine as `counts` says.

        `meanwhile` is called once: while the index is asked in another thread, where there is one.
        """
        if self._store.counts()[1] <= COMPARED:
            meanwhile()
            return self._compared(query, counts)
        with self._lock:
            self._raise_if_closed()
            asked = self._chroma.ask(query, counts)
            try:
                meanwhile()
            finally:
                futures.wait([asked] if asked else [])  # nobody may close what is being asked
            found = self._chroma.answer(asked) if asked else None
        return self._compared(query, counts) if found is None else found

    def _compared(self, query: NDArray[np.float32], counts: Mapping[str, int]) -> dict[str, Ranking]:
        with self._lock:
            self._raise_if_closed()
            matrices = self._all()
        return {group: best(ids, matrix @ query, counts[group]) for group, (ids, matrix) in matrices.items()}

    def nearest_among(
        self, query: NDArray[np.float32], counts: Mapping[str, int], among: Sequence[int]
    ) -> dict[str, Ranking]:
        """The same out of these passages only."""
        found: dict[str, Ranking] = {}
        with self._store.read() as reading:
            rows = read_vectors(reading, among)
        for group in GROUPS:
            ids, matrix = unpack([row for row in rows if group_of(row[2]) == group])
            found[group] = best(ids, matrix @ query, counts[group]) if len(ids) else []
        return found

    def cosines(self, passages: Sequence[int], query: NDArray[np.float32]) -> dict[int, float]:
        """The cosines of these passages with a query; those without a vector are missing."""
        with self._store.read() as reading:
            rows = read_vectors(reading, passages)
        ids, matrix = unpack(rows)
        return dict(zip(ids.tolist(), (matrix @ query).tolist(), strict=True)) if len(ids) else {}

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
        ids = [row[0] for row in self._store.rows("SELECT passage FROM vectors ORDER BY passage")]
        with self._store.read() as reading:
            rows = read_vectors(reading, ids[:: max(1, len(ids) // SAMPLE)])
        parts = [[row for row in rows if group_of(row[2]) == group] for group in GROUPS]
        _, sample = unpack(max(parts, key=len))
        if len(sample) < LEAST_SAMPLE:
            return DEFAULT_SPREAD
        return max(float((sample @ sample.T)[np.triu_indices(len(sample), 1)].std()), LEAST_SPREAD)

    def _all(self) -> Matrices:
        """Every vector in SQLite, kept in memory until the library changes."""
        with self._store.read() as reading:
            changes = self._store.changes()
            if self._matrices is None or self._matrices[0] != changes:
                rows = reading.execute(f"{SELECT} ORDER BY v.passage").fetchall()
                parts = {group: [row for row in rows if group_of(row[2]) == group] for group in GROUPS}
                self._matrices = (changes, {group: unpack(part) for group, part in parts.items() if part})
            return self._matrices[1]

    def catch_up(self) -> None:
        """Tell Chroma of every change. Nothing happens where another process has it open."""
        with self._lock:
            self._chroma.catch_up()

    def indexed(self) -> set[int]:
        """The passages that Chroma has, brought up to date."""
        with self._lock:
            self._chroma.catch_up()
            return self._chroma.ids()

    def purge(self) -> None:
        """Leave no deleted vector in any file."""
        with self._lock:
            self._matrices = None
            self._chroma.purge()

    def close(self) -> None:
        """Close Chroma and let other processes have it. Idempotent."""
        with self._lock:
            self._closed = True
            self._chroma.close()
            self._matrices = None

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise closed()
