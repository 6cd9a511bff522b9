"""Which passages answer a question: keywords and vectors, fused, merged, and explained.

The rank of a passage comes from its cosine (in standard deviations of this library's cosines) plus its BM25 (as a
share of what the question's terms are worth) plus, for Chinese, the share of the question's characters that it holds.
Scores rather than ranks are fused because how far ahead a passage is tells more than its place. Knows no language
model.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput
from . import keywords
from .filters import Filters
from .indexing import keywords_context
from .store import placeholders
from .terms import fold, is_han, language_of
from .vectors import GROUPS, group_of

if TYPE_CHECKING:
    from .library import Library

MODES = ("hybrid", "keywords", "vectors")
CANDIDATES, FOREIGN = 60, 20
"""How many passages each of the two ways proposes, and vectors besides from other languages."""
KEYWORD_WEIGHT, CHARACTER_WEIGHT = 17.0, 6.0
"""What the share of the question's terms, and of its characters, is worth in standard deviations of cosines."""
FILE_WEIGHT = 0.25
"""What the best passage of the same file adds to a passage, as a share of its own score."""
OWN_SEATS = 5
"""So many of the first seats always go to the question's own language."""
_NO_WORDS: tuple[float, list[str]] = (0.0, [])
SAME_TEXT = 0.85
"""Two passages that share this much of their character pairs are one to a reader."""


@dataclass(frozen=True)
class Hit:
    """A passage that was found."""

    passage_id: int
    text: str
    file: str
    page: str | None
    line: int
    headings: tuple[str, ...]
    start: int
    """Code-point offset into the document's text; `end` too."""
    end: int
    score: float
    """Comparable within one search only."""
    language: str = ""
    explain: Mapping[str, Any] = field(default_factory=dict)
    """Why it came: cosine, keywords, characters, the terms that match, the same text elsewhere."""
    pages: tuple[tuple[int, str], ...] = ()
    """(offset, page) where another page begins inside the passage."""

    def page_at(self, offset: int) -> str | None:
        """The page that holds this offset of the document."""
        return next((page or None for start, page in reversed(self.pages) if start <= offset), self.page)

    def line_at(self, offset: int) -> int:
        """The line that holds this offset of the document."""
        return self.line + self.text.count("\n", 0, max(0, offset - self.start))

    @property
    def place(self) -> str:
        """ "page 12" or "line 30"."""
        return f"page {self.page}" if self.page else f"line {self.line}"


@dataclass(frozen=True)
class Found:
    """What a search gave, and what answering needs to know besides."""

    hits: list[Hit]
    weights: Mapping[str, float]
    """The question's terms that occur, with what each is worth."""
    best: float
    """The strongest evidence of a passage in the question's language."""
    least: float | None
    """The evidence under which the library is taken to have no answer; None where nobody knows."""
    answerable: bool
    passages: int
    """Passages in the library; `pending` of them have no vectors yet."""
    pending: int


def find(
    library: Library,
    query: str,
    k: int = 5,
    mode: str = "hybrid",
    filters: Filters | Mapping[str, Any] | None = None,
    *,
    merge: bool = True,
    across: bool = True,
    neighbours: int = 0,
) -> Found:
    """The `k` passages that answer `query` best, best first; fewer where the library or the filter has fewer.

    `merge` shows passages of nearly the same text once. `across` keeps the seats from the sixth on for passages in
    other languages than the question's, as far as there are any. `neighbours` widens each hit by so many passages
    before and after it. Vectors that are not computed yet are simply not used. Raises `BadInput` for an empty
    question, an empty library, an unknown mode, k below 1.
    """
    from .calibration import threshold

    check(library, query, k, mode)
    with library.store.read() as reading:
        chosen = Filters.of(filters)
        allowed = chosen.passages(reading) if chosen else None
        pool = Pool(library, reading, query, mode, max(CANDIDATES, 4 * k), allowed)
        passages, vectors = pool.passages, pool.vectors
        least = threshold(library, mode if vectors else "keywords", pool.language)
        hits = pool.hits(k, merge, across)
        return Found(
            [widen(library, hit, neighbours) for hit in hits] if neighbours else hits,
            pool.question.weights,
            pool.best,
            least,
            pool.is_answerable(least),
            passages,
            passages - vectors,
        )


def check(library: Library, query: str, k: int, mode: str) -> None:
    """Raise `BadInput` for what `search` cannot do."""
    if mode not in MODES:
        raise BadInput(f"{mode!r} is not a way to search.", f"Valid: {', '.join(MODES)}.")
    if k < 1:
        raise BadInput(f"k must be at least 1, not {k}.", "It is the number of passages wanted.")
    if not query.strip():
        raise BadInput("The question is empty.", "Ask something.")
    if not library.store.connection.execute("SELECT 1 FROM passages LIMIT 1").fetchone():
        raise BadInput(f"The library in {library.folder} is empty.", "Add documents: hanpaca ingest FOLDER.")


class Pool:
    """The passages that one question brings up, with what speaks for each."""

    def __init__(
        self,
        library: Library,
        reading: sqlite3.Connection,
        query: str,
        mode: str,
        count: int,
        allowed: Sequence[int] | None,
        *,
        vector: NDArray[np.float32] | None = None,
        spread: float | None = None,
    ) -> None:
        self.query, self.mode = query, mode
        self.language = language_of(query)
        self._library, self._reading = library, reading
        self.passages, self.vectors = library.store.counts()
        self.question = keywords.weigh(reading, query, self.passages)
        self.cosines: dict[int, float] = {}
        found = keywords.candidates(reading, self.question, count, allowed) if mode != "vectors" else []
        if mode != "keywords" and self.vectors:
            wanted = library.query_vector(query) if vector is None else vector
            self._add_cosines(wanted, count, allowed, found)
        self._spread = spread or library.vectors.spread()
        self._least_cosine = min(self.cosines.values(), default=0.0)
        self._load(list(dict.fromkeys([*found, *self.cosines])))
        self.words = self._words() if mode != "vectors" else {}
        self.characters = _shares(set(filter(is_han, fold(query))), self.folded) if mode != "vectors" else {}
        self.scores = {number: self._score(number, mode) for number in self.rows}

    def _add_cosines(
        self, vector: NDArray[np.float32], count: int, allowed: Sequence[int] | None, found: Sequence[int]
    ) -> None:
        index = self._library.vectors
        own = group_of(self.language)
        counts = {group: count if group == own or not self.language else FOREIGN for group in GROUPS}
        by_group = index.nearest(vector, counts) if allowed is None else index.nearest_among(vector, counts, allowed)
        for ranking in by_group.values():
            self.cosines.update(ranking)
        missing = [number for number in found if number not in self.cosines]
        self.cosines.update({number: float(other @ vector) for number, other in index.of(missing).items()})

    def _load(self, numbers: Sequence[int]) -> None:
        rows = self._reading.execute(
            f"{_SELECT} WHERE p.id IN ({placeholders(numbers)})",
            numbers,
        )
        self.rows = {row[0]: row for row in rows}
        self.folded = {number: fold(row[1]) for number, row in self.rows.items()}

    def _words(self) -> dict[int, tuple[float, list[str]]]:
        found = {}
        for number, row in self.rows.items():
            context = fold(keywords_context(row[2], row[9], json.loads(row[5])))
            found[number] = keywords.score(self.question, self.folded[number], context)
        return found

    def _score(self, number: int, mode: str) -> float:
        """What speaks for a passage in this mode."""
        return self._evidence(number, mode) + CHARACTER_WEIGHT * self.characters.get(number, 0.0)

    def _evidence(self, number: int, mode: str) -> float:
        """The part that says whether there is an answer at all: single characters are shared by chance.

        A passage whose vector is not there yet gets the least cosine.
        """
        score = 0.0
        if mode != "keywords" and self.cosines:
            score += self.cosines.get(number, self._least_cosine) / self._spread
        if mode != "vectors":
            score += KEYWORD_WEIGHT * self.words.get(number, _NO_WORDS)[0]
        return score

    @property
    def best(self) -> float:
        """The strongest evidence in the question's language."""
        own = (number for number in self.rows if not self._is_foreign(number))
        return max((self._evidence(number, self.mode) for number in own), default=0.0)

    def best_in(self, file: int, mode: str) -> float | None:
        """The strongest evidence in a file's passages, in this mode."""
        return max((self._evidence(n, mode) for n, row in self.rows.items() if row[11] == file), default=None)

    def best_outside(self, file: int, mode: str) -> float | None:
        """The strongest evidence in the other files' passages of the question's language."""
        others = (number for number, row in self.rows.items() if row[11] != file and not self._is_foreign(number))
        return max((self._evidence(number, mode) for number in others), default=None)

    def is_answerable(self, least: float | None) -> bool:
        """Whether the best passage says enough. A library without the question's language is given the benefit."""
        own = [number for number in self.rows if not self._is_foreign(number)]
        if not own:
            return bool(self.rows)
        if least is None:
            return any(self.words.get(number, _NO_WORDS)[0] > 0 for number in own) or self.mode == "vectors"
        return self.best >= least

    def hits(self, k: int, merge: bool, across: bool) -> list[Hit]:
        """The best `k` as the user sees them."""
        of_file: dict[int, float] = {}
        for number, row in self.rows.items():
            of_file[row[11]] = max(of_file.get(row[11], -math.inf), self.scores[number])
        rank = {n: self.scores[n] + FILE_WEIGHT * of_file[row[11]] for n, row in self.rows.items()}
        order = sorted(self.rows, key=lambda number: (-rank[number], number))
        own = [number for number in order if not self._is_foreign(number)] if across else order
        foreign = sorted(set(order) - set(own), key=lambda number: (-self.cosines.get(number, -1.0), number))
        seats = _Seats(self.folded, merge)
        seats.fill(own, k if not foreign else max(k // 2, min(k, OWN_SEATS)))
        seats.fill(foreign, k)
        seats.fill(own, k)
        return [self._hit(number, seats.same[number]) for number in seats.taken]

    def _is_foreign(self, number: int) -> bool:
        """Whether keywords had no chance: a passage in another script than the question's, with no term of it."""
        language = self.rows[number][8]
        return bool(self.language and language) and language != self.language

    def _hit(self, number: int, same: Sequence[int]) -> Hit:
        share, held = self.words.get(number, _NO_WORDS)
        explain: dict[str, Any] = {
            "keywords": round(share, 4),
            "cosine": round(self.cosines[number], 4) if number in self.cosines else None,
            "characters": round(self.characters.get(number, 0.0), 4),
            "terms": held,
            "other_language": self._is_foreign(number),
            "same_text": [{"file": self.rows[other][2], "line": self.rows[other][4]} for other in same],
        }
        return _hit(self.rows[number], self.scores[number], explain)


_SELECT = (
    "SELECT p.id, p.text, f.path, p.page, p.line, p.headings, p.start, p.end, p.language, f.title, p.pages, p.file,"
    " p.position, p.gap FROM passages p JOIN files f ON f.id = p.file"
)


def _hit(row: tuple[Any, ...], score: float = 0.0, explain: Mapping[str, Any] | None = None) -> Hit:
    number, text, path, page, line, headings, start, end, language, _, pages, *_ = row
    turns = tuple((offset, label) for offset, label in json.loads(pages))
    return Hit(
        number, text, path, page, line, tuple(json.loads(headings)), start, end, score, language, explain or {}, turns
    )


def passages(library: Library, path: str) -> list[Hit]:
    """All passages of a file, in their order."""
    rows = library.store.connection.execute(f"{_SELECT} WHERE f.path = ? ORDER BY p.position", (path,))
    return [_hit(row) for row in rows]


def widen(library: Library, hit: Hit, count: int) -> Hit:
    """The hit with `count` passages before and after it, as one run of the document's text."""
    with library.store.read() as reading:
        rows = reading.execute(
            f"{_SELECT} JOIN passages m ON m.file = p.file WHERE m.id = ? AND abs(p.position - m.position) <= ?"
            " ORDER BY p.position",
            (hit.passage_id, count),
        ).fetchall()
    if not rows:
        return hit
    parts = [_hit(row) for row in rows]
    text = parts[0].text + "".join(row[13] + row[1] for row in rows[1:])
    pages: list[tuple[int, str]] = []
    for part in parts:
        turns = [(part.start, part.page or ""), *part.pages]
        pages += [turn for turn in turns if turn[1] != (pages[-1][1] if pages else parts[0].page or "")]
    return replace(
        parts[0], passage_id=hit.passage_id, text=text, end=parts[-1].end, pages=tuple(pages), score=hit.score,
        explain=hit.explain,
    )  # fmt: skip


class _Seats:
    """Takes passages in turn, each text once."""

    def __init__(self, folded: Mapping[int, str], merge: bool) -> None:
        self.taken: list[int] = []
        self.same: dict[int, list[int]] = {}
        self._folded, self._merge = folded, merge
        self._seen: set[int] = set()
        self._pairs: dict[int, frozenset[str]] = {}

    def fill(self, numbers: Sequence[int], size: int) -> None:
        """Go on taking from `numbers` until `size` are taken."""
        for number in numbers:
            if len(self.taken) >= size:
                return
            if number in self._seen:
                continue
            self._seen.add(number)
            pairs = _pairs(self._folded[number])
            twin = next((other for other in self.taken if self._merge and _alike(self._pairs[other], pairs)), None)
            if twin is not None:
                self.same[twin].append(number)
                continue
            self.taken.append(number)
            self.same[number] = []
            self._pairs[number] = pairs


def _pairs(text: str) -> frozenset[str]:
    return frozenset(text[at : at + 2] for at in range(len(text) - 1))


def _alike(one: frozenset[str], other: frozenset[str]) -> bool:
    if not one or not other or min(len(one), len(other)) < SAME_TEXT * max(len(one), len(other)):
        return False
    return len(one & other) >= SAME_TEXT * len(one | other)


def _shares(wanted: set[str], texts: Mapping[int, str]) -> dict[int, float]:
    """How much of the wanted characters each text holds, the rarer among these texts the more."""
    if not wanted:
        return {}
    holding = {number: wanted & set(text) for number, text in texts.items()}
    counts = Counter(character for held in holding.values() for character in held)
    size = len(texts)
    worth = {c: math.log(1 + (size - counts[c] + 0.5) / (counts[c] + 0.5)) for c in sorted(wanted)}
    total = sum(worth.values())
    return {number: sum(worth[c] for c in sorted(held)) / total for number, held in holding.items()}


def query_vectors(library: Library, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of many questions at once."""
    parts = [library.embedder.embed_queries(texts[at : at + 32]) for at in range(0, len(texts), 32)]
    return np.concatenate(parts) if parts else np.zeros((0, library.embedder.dimension), np.float32)
