"""The sentences of passages that answer a question best, word for word. Needs no language model.

A sentence counts by the question's terms in it, each by its rarity, by how well its passage was found, and by whether
it has what the question asks for: a number, a date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .retrieval import Hit
from .sentences import sentences
from .terms import fold, terms

QUOTES = 3
"""How many sentences answer a question."""
LONGEST = 400
"""Characters of a sentence that can be quoted whole."""


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


def quotes(question: str, hits: Sequence[Hit], weights: Mapping[str, float], count: int = QUOTES) -> list[Quote]:
    """The `count` best sentences, best first. `weights` says what each of the question's terms is worth."""
    wanted = dict.fromkeys(terms(question))
    worth = {term: weights.get(term, max(weights.values(), default=1.0)) for term in wanted}
    total = sum(worth.values()) or 1.0
    asked = _asked(question)
    found = []
    for rank, hit in enumerate(hits):
        for start, end in sentences(hit.text):
            sentence = hit.text[start:end]
            held = set(terms(sentence))
            share = sum(weight for term, weight in worth.items() if term in held) / total
            score = share + RANK_WEIGHT / (1 + rank) + (ASKED_WEIGHT if asked and asked.search(fold(sentence)) else 0.0)
            found.append(Quote(hit, hit.start + start, hit.start + end, score))
    found.sort(key=lambda quote: (-quote.score, quote.hit.passage_id, quote.start))
    return found[:count]


RANK_WEIGHT = 0.3
ASKED_WEIGHT = 0.1
_DIGITS = r"[0-9]|[一二三四五六七八九十百千万亿两]"
_CUES = (
    (re.compile(r"多少|几[个年月日天次人名岁种位层条]|多[大高长远久重宽]|how (?:many|much|long|far|old|tall)"),
     _DIGITS),
    (re.compile(r"何时|什么时候|什么时间|哪[一]?年|哪[一]?天|几[年月日]|when |what (?:year|date|day)"),
     r"[0-9]{1,4}|[年月日]|世纪|朝"),
)  # fmt: skip


def _asked(question: str) -> re.Pattern[str] | None:
    """What an answer must look like, where the question's words say so."""
    folded = fold(question)
    return next((re.compile(answer) for cue, answer in _CUES if cue.search(folded)), None)
