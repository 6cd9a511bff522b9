"""The passages that one question brings up, from both indexes, with what speaks for each.

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
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import keywords
from .hits import SELECT, Hit, hit_of
from .indexing import keywords_context
from .seats import Seats
from .segmentation import long_words
from .store import placeholders
from .terms import FUNCTION_TERMS, fold, fold_all, is_han, language_of, subject
from .vector_rows import GROUPS, group_of

if TYPE_CHECKING:
    from .library import Library

CANDIDATES, FOREIGN = 60, 20
"""How many passages each of the two ways proposes, and vectors besides from other languages."""
KEYWORD_WEIGHT, CHARACTER_WEIGHT = 17.0, 6.0
"""What the share of the question's terms, and of its characters, is worth in standard deviations of cosines."""
WORD_WEIGHT = 14.0
"""`KEYWORD_WEIGHT` in the ranking where terms are words: three pairs of characters repeat each other, words do not."""
FILE_WEIGHT = 0.25
"""What the best passage of the same file adds to a passage, as a share of its own score."""
OWN_SEATS = 5
"""So many of the first seats always go to the question's own language."""
_NO_WORDS: tuple[float, list[str]] = (0.0, [])


PartOf = Callable[[int, int], int]
"""(file, position of a passage in it) → the part of the library that it belongs to: the file, or a piece of one."""


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
        self.rows: dict[int, tuple[Any, ...]] = {}
        self._contexts: dict[tuple[str, str, str], dict[str, int]] = {}
        self.folded: dict[int, str] = {}
        self.words: dict[int, tuple[float, list[str]]] = {}
        self.cosines: dict[int, float] = {}
        look_up = partial(self._look_up, count, allowed)
        if mode == "keywords" or not self.vectors:
            look_up()
        else:
            self._add_nearest(library.query_vector(query) if vector is None else vector, count, allowed, look_up)
        self._spread = spread or library.vectors.spread()
        self._least_cosine = min(self.cosines.values(), default=0.0)
        self.characters = _shares(set(filter(is_han, subject(query))), self.folded) if mode != "vectors" else {}
        self.scores = {number: self._score(number, mode) for number in self.rows}

    def _look_up(self, count: int, allowed: Sequence[int] | None) -> None:
        """Take what keywords bring up."""
        words = long_words(self.query) if self._library.segmenter else ()
        known = self._library.store.frequencies()
        self.question = keywords.weigh(self._reading, self.query, self.passages, words, known)
        if self.mode != "vectors":
            self._take(keywords.candidates(self._reading, self.question, count, allowed))

    def _add_nearest(
        self, wanted: NDArray[np.float32], count: int, allowed: Sequence[int] | None, look_up: Callable[[], None]
    ) -> None:
        """Take what vectors bring up, and look keywords up meanwhile."""
        own = group_of(self.language)
        counts = {group: count if group == own or not self.language else FOREIGN for group in GROUPS}
        index = self._library.vectors
        if allowed is None:
            rankings = index.nearest(wanted, counts, look_up)
        else:
            look_up()
            rankings = index.nearest_among(wanted, counts, allowed)
        nearest = {number: cosine for ranking in rankings.values() for number, cosine in ranking}
        self.cosines = nearest | index.cosines([number for number in self.rows if number not in nearest], wanted)
        self._take([number for number in nearest if number not in self.rows])

    def _take(self, numbers: Sequence[int]) -> None:
        """Read these passages, and see which of the question's terms they hold."""
        rows = self._reading.execute(f"{SELECT} WHERE p.id IN ({placeholders(numbers)})", numbers).fetchall()
        folded = fold_all([row[1] for row in rows])
        self.rows |= {row[0]: row for row in rows}
        self.folded |= {row[0]: text for row, text in zip(rows, folded, strict=True)}
        if self.mode != "vectors":
            self.words |= self._words([row[0] for row in rows])

    def _words(self, numbers: Sequence[int]) -> dict[int, tuple[float, list[str]]]:
        found = {}
        for number in numbers:
            row = self.rows[number]
            where = path, title, headings = row[2], row[9], row[5]
            if where not in self._contexts:  # passages of a section share theirs
                context = fold(keywords_context(path, title, json.loads(headings)))
                self._contexts[where] = keywords.count(self.question, context)
            found[number] = keywords.score(self.question, self.folded[number], self._contexts[where])
        return found

    def _score(self, number: int, mode: str) -> float:
        """What speaks for a passage in this mode."""
        weight = KEYWORD_WEIGHT if self.language == "zh" else WORD_WEIGHT
        return self._evidence(number, mode, weight) + CHARACTER_WEIGHT * self.characters.get(number, 0.0)

    def _evidence(self, number: int, mode: str, weight: float = KEYWORD_WEIGHT) -> float:
        """The part that says whether there is an answer at all: single characters are shared by chance.

        A passage whose vector is not there yet gets the least cosine.
        """
        score = 0.0
        if mode != "keywords" and self.cosines:
            score += self.cosines.get(number, self._least_cosine) / self._spread
        if mode != "vectors":
            score += weight * self.words.get(number, _NO_WORDS)[0]
        return score

    @property
    def best(self) -> float:
        """The strongest evidence in the question's language."""
        own = (number for number in self.rows if not self._is_foreign(number))
        return max((self._evidence(number, self.mode) for number in own), default=0.0)

    def best_in(self, part: int, mode: str, part_of: PartOf) -> float | None:
        """The strongest evidence in a part's passages, in this mode."""
        own = (number for number, row in self.rows.items() if part_of(row[11], row[12]) == part)
        return max((self._evidence(number, mode) for number in own), default=None)

    def best_outside(self, parts: set[int], mode: str, part_of: PartOf) -> float | None:
        """The strongest evidence in the other parts' passages of the question's language."""
        others = (number for number, row in self.rows.items() if part_of(row[11], row[12]) not in parts)
        return max((self._evidence(n, mode) for n in others if not self._is_foreign(n)), default=None)

    def parts_saying(self, text: str, part_of: PartOf) -> set[int]:
        """The parts with a passage here that holds the text, but for spaces and punctuation."""
        said = _letters(fold(text))
        saying = (row for number, row in self.rows.items() if said in _letters(self.folded[number]))
        return {part_of(row[11], row[12]) for row in saying}

    def is_answerable(self, least: float | None) -> bool:
        """Whether the best passage says enough. A library without the question's language is given the benefit."""
        own = [number for number in self.rows if not self._is_foreign(number)]
        if not own:
            return bool(self.rows)
        if least is None:
            said = {term for number in own for term in self.words.get(number, _NO_WORDS)[1]}
            return self.mode == "vectors" or not said <= FUNCTION_TERMS
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
        seats = Seats(self.folded, merge)
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
        return hit_of(self.rows[number], self.scores[number], explain)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def _shares(wanted: set[str], texts: Mapping[int, str]) -> dict[int, float]:
    """How much of the wanted characters each text holds, the rarer among these texts the more."""
    if not wanted:
        return {}
    holding = {number: {character for character in wanted if character in text} for number, text in texts.items()}
    counts = Counter(character for held in holding.values() for character in held)
    size = len(texts)
    worth = {c: math.log(1 + (size - counts[c] + 0.5) / (counts[c] + 0.5)) for c in sorted(wanted)}
    total = sum(worth.values())
    return {number: sum(worth[c] for c in sorted(held)) / total for number, held in holding.items()}
