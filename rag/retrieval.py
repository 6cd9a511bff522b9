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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..core.errors import BadInput
from . import keywords
from .filters import Filters
from .indexing import keywords_context
from .store import placeholders
from .terms import fold, is_han, language_of

if TYPE_CHECKING:
    from .library import Library

MODES = ("hybrid", "keywords", "vectors")
CANDIDATES = 100
"""How many passages each of the two ways proposes."""
KEYWORD_WEIGHT = 10.0
CHARACTER_WEIGHT = 1.7
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
    """Why it came: cosine, keywords, characters, the ranks among both, matched terms, same texts elsewhere."""

    @property
    def place(self) -> str:
        """ "page 12" or "line 30"."""
        return f"page {self.page}" if self.page else f"line {self.line}"


def search(
    library: Library,
    query: str,
    k: int = 5,
    mode: str = "hybrid",
    filters: Filters | Mapping[str, Any] | None = None,
    *,
    merge: bool = True,
    across: bool = True,
) -> list[Hit]:
    """The `k` passages that answer `query` best, best first; fewer where the library or the filter has fewer.

    `merge` shows passages of nearly the same text once. `across` keeps the seats from the sixth on for passages in
    other languages than the question's, as far as there are any. Vectors that are not computed yet are simply not used.
    Raises `BadInput` for an empty question, an empty library, an unknown mode, k below 1.
    """
    check(library, query, k, mode)
    with library.store.read() as reading:
        chosen = Filters.of(filters)
        allowed = chosen.passages(reading) if chosen else None
        pool = Pool(library, reading, query, mode, max(CANDIDATES, 4 * k), allowed)
        return pool.hits(k, merge, across)


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
    ) -> None:
        self.query = query
        self.language = language_of(query)
        self._library, self._reading = library, reading
        self.question = keywords.weigh(reading, query)
        self.cosines: dict[int, float] = {}
        self.spread = 1.0
        found = keywords.candidates(reading, self.question, count, allowed) if mode != "vectors" else []
        if mode != "keywords" and reading.execute("SELECT 1 FROM vectors LIMIT 1").fetchone():
            self._add_cosines(query, count, allowed, found)
        self._load(list(dict.fromkeys([*found, *self.cosines])))
        self.words = self._words() if mode != "vectors" else {}
        self.scores = self._scores()

    def _add_cosines(self, query: str, count: int, allowed: Sequence[int] | None, found: Sequence[int]) -> None:
        index = self._library.vectors
        vector = self._library.query_vector(query)
        by_group = index.nearest(vector, count) if allowed is None else index.nearest_among(vector, count, allowed)
        for ranking in by_group.values():
            self.cosines.update(ranking)
        missing = [number for number in found if number not in self.cosines]
        self.cosines.update({number: float(other @ vector) for number, other in index.of(missing).items()})
        self.spread = index.spread()

    def _load(self, numbers: Sequence[int]) -> None:
        rows = self._reading.execute(
            "SELECT p.id, p.text, f.path, p.page, p.line, p.headings, p.start, p.end, p.language, f.title"
            f" FROM passages p JOIN files f ON f.id = p.file WHERE p.id IN ({placeholders(numbers)})",
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

    def _scores(self) -> dict[int, float]:
        self.characters = _shares(set(filter(is_han, fold(self.query))), self.folded)
        lowest = min(self.cosines.values(), default=0.0)
        return {
            number: self.cosines.get(number, lowest) / self.spread
            + KEYWORD_WEIGHT * self.words.get(number, _NO_WORDS)[0]
            + CHARACTER_WEIGHT * self.characters.get(number, 0.0)
            for number in self.rows
        }

    def hits(self, k: int, merge: bool, across: bool) -> list[Hit]:
        """The best `k` as the user sees them."""
        order = sorted(self.rows, key=lambda number: (-self.scores[number], number))
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
        _, text, path, page, line, headings, start, end, language, _ = self.rows[number]
        share, held = self.words.get(number, _NO_WORDS)
        explain: dict[str, Any] = {
            "keywords": round(share, 4),
            "cosine": round(self.cosines[number], 4) if number in self.cosines else None,
            "characters": round(self.characters.get(number, 0.0), 4),
            "terms": held,
            "other_language": self._is_foreign(number),
            "same_text": [{"file": self.rows[other][2], "line": self.rows[other][4]} for other in same],
        }
        marks = tuple(json.loads(headings))
        return Hit(number, text, path, page, line, marks, start, end, self.scores[number], language, explain)


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
