"""Vectors as SQLite keeps them, and the order that their cosines give. Knows the store's tables and no index."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .store import placeholders

GROUPS = ("zh", "other")
"""Chinese and other passages are ranked apart: a question's own language would crowd out the other one."""
Ranking = list[tuple[int, float]]
"""(passage, cosine), best first."""
Row = tuple[int, bytes, str]
"""(passage, packed vector, language)."""
SELECT = "SELECT v.passage, v.vector, p.language FROM vectors v JOIN passages p ON p.id = v.passage"


def group_of(language: str) -> str:
    """The group of a language as `terms.language_of` names it."""
    return "zh" if language == "zh" else "other"


def pack(vector: NDArray[np.float32]) -> bytes:
    """A vector as SQLite keeps it: half precision moves a cosine by less than .001."""
    return vector.astype(np.float16).tobytes()


def unpack(rows: Sequence[Row]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(passages, matrix): (n,) and (n, dimension); (0,) and (0, 0) for no rows."""
    ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
    matrix = np.frombuffer(b"".join(row[1] for row in rows), np.float16).astype(np.float32)
    return ids, matrix.reshape(len(rows), -1) if rows else matrix.reshape(0, 0)


def read_vectors(reading: sqlite3.Connection, passages: Sequence[int]) -> list[Row]:
    """The rows of these passages, by number; those without a vector are missing."""
    rows: list[Row] = []
    for at in range(0, len(passages), 10_000):
        part = passages[at : at + 10_000]
        statement = f"{SELECT} WHERE v.passage IN ({placeholders(part)}) ORDER BY v.passage"
        rows += reading.execute(statement, tuple(part)).fetchall()
    return rows


def best(ids: NDArray[np.int64], scores: NDArray[np.float32], count: int) -> Ranking:
    """The largest first, ties by number: a partition first, for sorting 100,000 would take longer than the rest."""
    if len(ids) > count:
        chosen = np.argpartition(-scores, count)[:count]
        ids, scores = ids[chosen], scores[chosen]
    order = np.lexsort((ids, -scores))
    return [(int(ids[at]), float(scores[at])) for at in order]
