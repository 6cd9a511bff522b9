"""The sentences of passages that matter to a question, as a short prompt: for small models, and for small windows.

A passage of 350 Chinese characters is 650 tokens to a model that reads bytes, most of them beside the point. Of 1,486
questions 91 % have their answer in the best 250 characters of three passages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from ..core.chat import Message
from .extract import Quote, ranked
from .hits import Hit
from .prompts import Wording, fill

PASSAGES = 3
CHARACTERS = 250
"""Chinese characters of all passages together; ASCII, which such models read in words, counts a sixth."""
READING = 110
"""The same for readers, as they are taught; 88 % of the simplified questions have their answer in so few."""
_CHINESE = 6
_GAP = " … "
_MARK = re.compile(r"\[(\d{1,3})\]")


def focused(
    question: str,
    hits: Sequence[Hit],
    weights: Mapping[str, float],
    characters: int = CHARACTERS,
    nearness: Callable[[Sequence[str]], Sequence[float]] | None = None,
) -> list[tuple[Hit, str]]:
    """The best sentences of passages, in the order of their text, as many as fit; passages without one are left out.

    `weights` and `nearness` are those of `extract.quotes`. The best sentence is always there, however long.
    """
    chosen: list[Quote] = []
    room = characters * _CHINESE
    for quote in ranked(question, hits, weights, nearness):
        size = length(quote.text)
        if size <= room or not chosen:
            chosen.append(quote)
            room -= size
    found = []
    for hit in hits:
        own = sorted((quote for quote in chosen if quote.hit.passage_id == hit.passage_id), key=lambda one: one.start)
        if own:
            found.append((hit, _joined(hit, own)))
    return found


def length(text: str) -> int:
    """How long a text is to a model that reads bytes, in sixths of a Chinese character."""
    return sum(1 if character.isascii() else _CHINESE for character in text)


def messages(words: Wording, shown: Sequence[tuple[Hit, str]], question: str) -> list[Message]:
    """The prompt: numbered sentences, and the question last."""
    return prompt(words, [text for _, text in shown], question)


def prompt(words: Wording, texts: Sequence[str], question: str) -> list[Message]:
    """The prompt of texts without their passages."""
    lines = [f"[{number}] {in_one_line(text)}" for number, text in enumerate(texts, 1)]
    body = fill(words.focus_question, sources="\n".join(lines), question=question)
    return [Message("system", words.focus), Message("user", body)]


def _joined(hit: Hit, quotes: Sequence[Quote]) -> str:
    """Sentences that follow one another as they stand; a mark where some are left out between."""
    parts: list[list[int]] = []
    for quote in quotes:
        between = hit.text[parts[-1][1] - hit.start : quote.start - hit.start] if parts else "-"
        if parts and not between.strip():
            parts[-1][1] = quote.end
        else:
            parts.append([quote.start, quote.end])
    return _GAP.join(hit.text[start - hit.start : end - hit.start].strip() for start, end in parts)


def in_one_line(text: str) -> str:
    """A text as the prompt shows it: in one line, and without marks by which it could pose as another source."""
    return _MARK.sub(r"(\1)", " ".join(text.split()))
