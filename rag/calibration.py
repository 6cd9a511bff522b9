"""When a library has no answer: a threshold found from its own passages, without labelled questions.

A clause taken from one document and asked of all the others is a question that the library cannot answer, though it is
about the right things. What most such questions reach is too little to answer from. Cosines and term weights
differ from library to library and from embedder to embedder; the threshold moves with them. Documents that say the
clause too (a book in two formats) count as its own; clauses to which another document comes near are left out. Where
there is one document in a language, its pieces take the place of documents. Knows no language model.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .pool import CANDIDATES, PartOf, Pool
from .retrieval import query_vectors
from .vector_rows import GROUPS, group_of

if TYPE_CHECKING:
    from .library import Library

QUESTIONS = 200
"""Clauses that are asked in each group of languages; fewer in a small library."""
LEAST = 25
"""With fewer usable ones there is no threshold, and only a question that shares no word with the library is refused."""
QUANTILE = 85
MARGINS = {"hybrid": 2.5, "keywords": 1.0, "vectors": 0.5}
"""A clause's own document must be so much better than the best other one."""
STALE = 0.2
"""Calibrate anew when the number of passages has changed by this share."""
PIECES, PIECES_QUANTILE = 10, 40
"""What a single document is divided into. Its pieces speak of the same things, and come nearer than documents do."""
_CLAUSE = re.compile(r"[^，。！？；：,.!?;:\n]{8,}")
_LENGTHS = {"zh": (10, 30), "other": (30, 100)}


def is_stale(library: Library) -> bool:
    """Whether the library has changed too much since its last calibration."""
    known = json.loads(library.store.meta("calibration") or "{}")
    count = library.store.rows("SELECT count(*) FROM passages")[0][0]
    if known.get("segmenter") != library.segmenter:
        return bool(count)
    return bool(abs(count - known.get("passages", 0)) > STALE * count)


def calibrate(library: Library, stop: Callable[[], bool] = lambda: False) -> None:
    """Find the thresholds and remember them in the library. Needs vectors; takes some seconds."""
    spread = library.vectors.spread(fresh=True)
    with library.store.read() as reading:
        count = reading.execute("SELECT count(*) FROM passages").fetchone()[0]
    clauses = _clauses(library)
    vectors = query_vectors(library, [text for _, _, text, _ in clauses])
    others: dict[str, list[tuple[float, float]]] = {}
    parts = {group: _parts(library, group) for group in GROUPS}
    for (file, position, text, group), vector in zip(clauses, vectors, strict=True):
        if stop():
            return
        with library.store.read() as reading:
            pool = Pool(library, reading, text, "hybrid", CANDIDATES, None, vector=vector, spread=spread)
        part_of = parts[group].of
        saying = pool.parts_saying(text, part_of) | {part_of(file, position)}
        for mode in ("hybrid", "keywords", "vectors"):
            own = pool.best_in(part_of(file, position), mode, part_of)
            other = pool.best_outside(saying, mode, part_of)
            if own is not None and other is not None:
                others.setdefault(f"{mode} {group}", []).append((own, other))
    thresholds = {
        name: found
        for name, pairs in others.items()
        if (found := _threshold(name, pairs, parts[name.split()[1]].quantile)) is not None
    }
    known = {"passages": count, "spread": spread, "segmenter": library.segmenter, "thresholds": thresholds}
    with library.store.write():
        library.store.set_meta("calibration", json.dumps(known))


def threshold(library: Library, mode: str, language: str) -> float | None:
    """The least score of an answer to a question in this language; None where nothing is known."""
    known = json.loads(library.store.meta("calibration") or "{}").get("thresholds", {})
    found = known.get(f"{mode} {group_of(language)}")
    return None if found is None else float(found)


def _threshold(name: str, pairs: list[tuple[float, float]], quantile: int) -> float | None:
    clean = [other for own, other in pairs if other < own - MARGINS[name.split()[0]]]
    return float(np.percentile(clean, quantile)) if len(clean) >= LEAST else None


class _Parts(NamedTuple):
    """What counts as documents, and how many of the clauses must reach less than an answer."""

    of: PartOf
    quantile: int


def _parts(library: Library, group: str) -> _Parts:
    """The files; where one file is all there is in a group of languages, its pieces."""
    rows = library.store.rows("SELECT file, language, position FROM passages")
    own = [(file, position) for file, language, position in rows if group_of(language) == group]
    if len({file for file, _ in own}) > 1:
        return _Parts(lambda file, _: file, QUANTILE)
    size = -(-(1 + max((position for _, position in own), default=0)) // PIECES)
    return _Parts(lambda _, position: position // size, PIECES_QUANTILE)


def _clauses(library: Library) -> list[tuple[int, int, str, str]]:
    """(file, position, clause, group), evenly from the passages of each group; always the same for the same library."""
    rows = library.store.rows("SELECT id, file, position, language FROM passages ORDER BY id")
    found: list[tuple[int, int, str, str]] = []
    for group in GROUPS:
        own = [(number, file, position) for number, file, position, language in rows if group_of(language) == group]
        choose = random.Random(len(own))
        choose.shuffle(own)
        clauses = (_clause(library, number, group, choose) for number, _, _ in own)
        usable = ((file, at, clause, group) for (_, file, at), clause in zip(own, clauses, strict=True) if clause)
        found += itertools.islice(usable, QUESTIONS)
    return found


def _clause(library: Library, passage: int, group: str, choose: random.Random) -> str | None:
    text = library.store.rows("SELECT text FROM passages WHERE id = ?", (passage,))[0][0]
    shortest, longest = _LENGTHS[group]
    clauses = [clause for part in _CLAUSE.findall(text) if shortest <= len(clause := part.strip()) <= longest]
    return choose.choice(clauses) if clauses else None
