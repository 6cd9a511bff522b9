"""The sentences of passages that answer a question best, word for word. Needs no language model.

A sentence counts by the question's terms and characters in it, each by how rare it is in the library and among these
sentences; by how far its passage is behind the best one; by whether it has what the question asks for, such as a
number; and the best few by their vectors. What the rest of its passage says about the question counts for it in part:
a text names its subject once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from .hits import Hit
from .sentences import sentences
from .terms import fold, is_han, joined, question_terms, subject, terms

QUOTES = 3
"""How many sentences answer a question."""
LONGEST = 400
"""Characters of a sentence that can be quoted whole."""
PASSAGES = 5
"""Sentences of so many passages are compared."""
AROUND = 0.3
"""What a term counts that only the rest of the passage has."""
LOCAL_WEIGHT, CHARACTER_WEIGHT, ASKED_WEIGHT = 0.3, 0.4, 0.1
BEHIND_WEIGHT = 0.12
"""For each standard deviation by which the passage is behind the best one."""
NEAR_WEIGHT, NEAR = 0.04, 6
"""What a standard deviation of the sentence's own cosine counts, among so many sentences."""
FEWEST = 6
"""Letters of a sentence that is worth quoting; two Chinese characters do."""
_BARE = re.compile(r"#{1,6} |[│├└─|`\s]*[├└]")
POOR = 0.4
"""A third sentence is quoted only if it has this share of the best one's score."""


@dataclass(frozen=True)
class Quote:
    """A sentence of a passage."""

    hit: Hit
    start: int
    """Code-point offset into the document's text; `end` too."""
    end: int
    score: float

    @property
    def text(self) -> str:
        return self.hit.text[self.start - self.hit.start : self.end - self.hit.start]

    def within(self, other: Quote) -> bool:
        """Whether the other one has all of it."""
        return self.hit.file == other.hit.file and other.start <= self.start and self.end <= other.end


def quotes(
    question: str,
    hits: Sequence[Hit],
    weights: Mapping[str, float],
    count: int = QUOTES,
    nearness: Callable[[Sequence[str]], Sequence[float]] | None = None,
) -> list[Quote]:
    """The `count` best sentences, best first.

    `weights` says what each of the question's terms is worth in the library; `nearness` gives texts' cosines to the
    question, in standard deviations of the library's.
    """
    found = ranked(question, hits[:PASSAGES], weights, nearness)
    return [quote for at, quote in enumerate(found[:count]) if at < 2 or quote.score >= POOR * found[0].score > 0]


def ranked(
    question: str,
    hits: Sequence[Hit],
    weights: Mapping[str, float],
    nearness: Callable[[Sequence[str]], Sequence[float]] | None = None,
) -> list[Quote]:
    """All sentences of passages, best first; what `weights` and `nearness` are, `quotes` says."""
    found = sorted(_score(question, hits, weights), key=_order)
    if nearness is None or len(found) < 2:
        return found
    first = found[:NEAR]
    near = nearness([quote.text for quote in first])
    first = [
        Quote(quote.hit, quote.start, quote.end, quote.score + NEAR_WEIGHT * (value - min(near)))
        for quote, value in zip(first, near, strict=True)
    ]
    return sorted(first, key=_order) + found[NEAR:]


def among(quote: Quote, others: Sequence[Quote]) -> bool:
    """Whether one of the others has it, or says the same elsewhere."""
    said = _said(quote.text)
    return any(quote.within(other) or _said(other.text) == said for other in others)


def _order(quote: Quote) -> tuple[float, int, int]:
    return -quote.score, quote.hit.passage_id, quote.start


def _score(question: str, hits: Sequence[Hit], weights: Mapping[str, float]) -> list[Quote]:
    once: dict[tuple[str, int], tuple[Hit, int, int]] = {}  # what two passages show belongs to the better one
    for hit in hits:
        for start, end in sentences(hit.text):
            once.setdefault((hit.file, hit.start + end), (hit, hit.start + start, hit.start + end))
    spans = list(once.values())
    spans = [span for span in spans if _says_something(_text(*span), span[0])] or spans
    spans = list({_said(_text(*span)): span for span in reversed(spans)}.values())[::-1]  # two documents, one sentence
    folded = [fold(_text(*span)) for span in spans]
    groups = [hit.passage_id for hit, _, _ in spans]
    wanted = question_terms(question)
    held = [{*terms(text), *terms(joined(text))} for text in folded]
    unknown = max(weights.values(), default=1.0)
    library = _shares({term: weights.get(term, unknown) for term in wanted}, held, groups)
    local = _shares(_rarity(wanted, held), held, groups)
    characters = [set(text) for text in folded]
    single = _shares(_rarity(sorted(set(filter(is_han, subject(question)))), characters), characters, groups)
    asked = _asked(question)
    best = max((hit.score for hit in hits), default=0.0)
    return [
        Quote(
            hit, start, end,
            library[at] + LOCAL_WEIGHT * local[at] + CHARACTER_WEIGHT * single[at]
            + (ASKED_WEIGHT if asked and asked.search(folded[at]) else 0.0) - BEHIND_WEIGHT * (best - hit.score),
        )
        for at, (hit, start, end) in enumerate(spans)
    ]  # fmt: skip


def _text(hit: Hit, start: int, end: int) -> str:
    return hit.text[start - hit.start : end - hit.start]


def _said(text: str) -> str:
    """A text without what differs between formats: spaces, quotation marks, bullets."""
    return "".join(filter(str.isalnum, fold(text))) or text


def _says_something(text: str, hit: Hit) -> bool:
    """Not a heading, a line of a tree, or a number by itself."""
    letters = sum(map(str.isalpha, text))
    return not _BARE.match(text) and text not in hit.headings and (letters >= FEWEST or sum(map(is_han, text)) >= 2)


def _rarity(wanted: Sequence[str], held: Sequence[set[str]]) -> dict[str, float]:
    """What each term is worth among these sentences; those in none are worth nothing."""
    counts = {term: sum(term in one for one in held) for term in wanted}
    return {t: math.log(1 + (len(held) - n + 0.5) / (n + 0.5)) for t, n in counts.items() if n}


def _shares(worth: Mapping[str, float], held: Sequence[set[str]], groups: Sequence[Hashable]) -> list[float]:
    """How much of the worth each sentence has, counting in part what its passage has elsewhere."""
    total = sum(worth.values()) or 1.0
    around: dict[Hashable, set[str]] = {}
    for group, one in zip(groups, held, strict=True):
        around.setdefault(group, set()).update(one & worth.keys())
    return [
        sum(weight * (1.0 if term in one else AROUND) for term, weight in worth.items() if term in around[own]) / total
        for own, one in zip(groups, held, strict=True)
    ]


_DIGITS = r"[0-9]|[一二三四五六七八九十百千万亿两]"
_CUES = (
    (re.compile(r"多少|几|多[大高长远久重宽]|how (?:many|much|long|far|old|tall)"), _DIGITS),
    (re.compile(r"何时|什么时候|什么时间|哪一?年|哪一?天|when |what (?:year|date|day)"), r"[0-9]{1,4}|[年月日]|世纪"),
)


def _asked(question: str) -> re.Pattern[str] | None:
    """What an answer must look like, where the question's words say so."""
    folded = fold(question)
    return next((re.compile(answer) for cue, answer in _CUES if cue.search(folded)), None)
