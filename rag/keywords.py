"""BM25 over the keyword index: which of a question's terms are rare, and which passages hold them.

Knows the store's FTS5 table and nothing of vectors.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from .store import placeholders
from .terms import PARTICLE, is_cjk, joined, question_terms, terms, words

COMMON = 0.1
"""In a library of some size, a term in more passages than this share is not searched for: it says little."""
SIZEABLE = 5_000
_MOST_TERMS = 64
POSTINGS = 1_500
"""The rarest terms are searched for until they occur in so many passages together: FTS5 weighs each occurrence."""
LEAST_TERMS = 2
FREQUENT = 500
"""The frequency of a term in more passages than this is remembered."""
_K1, _B = 1.2, 0.75
_USUAL_LENGTH = 330
"""Characters of a usual passage; a longer one must hold a term more often for the same score."""
CONTEXT_WEIGHT = 0.5
"""What a term is worth in a file's name, title or headings, compared with the text."""


@dataclass(frozen=True)
class Question:
    """A question's terms with what each is worth in this library."""

    weights: dict[str, float]
    """Term → inverse document frequency, for the terms that occur."""
    total: float
    """What all terms are worth together, those that occur nowhere included."""
    searched: tuple[str, ...]
    """The terms to look for, rarest first."""

    @cached_property
    def kinds(self) -> tuple[list[str], list[str], frozenset[str]]:
        """The terms of characters, those of them with a particle, which are looked for where it stands, and words."""
        characters = [term for term in self.weights if is_cjk(term)]
        particles = [term for term in characters if PARTICLE in term]
        pairs = [term for term in characters if PARTICLE not in term]
        return pairs, particles, frozenset(self.weights) - frozenset(characters)

    @cached_property
    def beginnings(self) -> tuple[str, ...]:
        """How the words begin in any form: `terms` cuts an s, and puts y for ies."""
        return tuple(word.removesuffix("y") for word in self.kinds[2])


def weigh(
    reading: sqlite3.Connection,
    text: str,
    passages: int,
    words: Sequence[str] = (),
    known: dict[str, int] | None = None,
) -> Question:
    """Look up how rare each term of a question is among so many passages; `words` are further ones, of characters.

    `known` are frequencies of this state of the library. Common terms are added to it: counting them takes a while.
    """
    known = {} if known is None else known
    weights: dict[str, float] = {}
    total, frequencies = 0.0, {}
    for term in dict.fromkeys([*question_terms(text)[: 4 * _MOST_TERMS], *words]):
        frequency = known[term] if term in known else _frequency(reading, term)
        if frequency > FREQUENT:
            known[term] = frequency
        weight = math.log(1 + (passages - frequency + 0.5) / (frequency + 0.5))
        total += weight
        if frequency:
            weights[term], frequencies[term] = weight, frequency
    limit = passages * COMMON if passages > SIZEABLE else math.inf
    rare = sorted((term for term in weights if frequencies[term] <= limit), key=lambda term: frequencies[term])
    if not rare and weights:
        rare = [min(weights, key=lambda term: frequencies[term])]
    return Question(weights, total, tuple(_affordable(rare[:_MOST_TERMS], frequencies)))


def _frequency(reading: sqlite3.Connection, term: str) -> int:
    """In how many passages a term occurs."""
    if len(term) > 2 and is_cjk(term):
        statement, wanted = "SELECT count(*) FROM keywords WHERE keywords MATCH ?", _matching(term)
    else:
        statement, wanted = "SELECT doc FROM vocabulary WHERE term = ?", term
    row = reading.execute(statement, (wanted,)).fetchone()
    return int(row[0]) if row else 0


def _matching(term: str) -> str:
    """A term for FTS5; of characters, a word is the phrase of its pairs."""
    return f'"{" ".join(terms(term))}"' if is_cjk(term) else f'"{term}"'


def _affordable(rare: Sequence[str], frequencies: Mapping[str, int]) -> Iterator[str]:
    """Terms, rarest first, as far as looking them up takes little time; what is left out still counts in `score`."""
    spent = 0
    for count, term in enumerate(rare):
        spent += frequencies[term]
        if count >= LEAST_TERMS and spent > POSTINGS:
            return
        yield term


def candidates(
    reading: sqlite3.Connection, question: Question, count: int, among: Sequence[int] | None = None
) -> list[int]:
    """The passages that FTS5 ranks best, best first."""
    if not question.searched or (among is not None and not among):
        return []
    match = " OR ".join(map(_matching, question.searched))
    only = "" if among is None else f" AND rowid IN ({placeholders(among)})"
    rows = reading.execute(
        f"SELECT rowid FROM keywords WHERE keywords MATCH ?{only}"
        f" ORDER BY bm25(keywords, 1.0, {CONTEXT_WEIGHT}), rowid LIMIT ?",
        (match, *(among or ()), count),
    )
    return [row[0] for row in rows]


def score(question: Question, text: str, context: Mapping[str, int]) -> tuple[float, list[str]]:
    """BM25 of one passage as a share of the most that the question's terms could give, and the terms it holds.

    `text` is folded, `context` is `count` of what stands around it. FTS5's own figure is not used: it is 0 for a term
    in half of the passages, which in a small library is any term.
    """
    body = count(question, text)
    length = _K1 * (1 - _B + _B * len(text) / _USUAL_LENGTH)
    found, held = 0.0, []
    for term, weight in question.weights.items():
        times = body.get(term, 0) + CONTEXT_WEIGHT * context.get(term, 0)
        if times:
            held.append(term)
            found += weight * times / (times + length)
    return found / question.total if question.total else 0.0, held


def count(question: Question, folded: str) -> dict[str, int]:
    """How often each of the question's terms occurs in a folded text, if it does."""
    pairs, particles, single = question.kinds
    without = joined(folded)
    found = {term: times for term in pairs if (times := without.count(term))}
    found |= {term: times for term in particles if (times := folded.count(term))}
    if any(beginning in folded for beginning in question.beginnings):
        found |= {term: times for term, times in Counter(words(folded, question.beginnings)).items() if term in single}
    return found
