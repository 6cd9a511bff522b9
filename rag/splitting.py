"""Text → passages: sentence boundaries, real token lengths, exact source offsets.

`document.text[passage.start:passage.end] == passage.text`, always. Knows no embedder: it is given a way to count.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from .readers import Document
from .sentences import iter_sentences, sentences, trim

__all__ = ["Passage", "TARGET", "iter_passages", "sentences", "split"]

TARGET = 400
"""Characters of a full passage: what a person takes in at a glance, and a citation can show whole."""

_ENOUGH = 0.75
"""A passage as full as this ends with its paragraph rather than taking in a part of the next."""
_TINY = 48
"""A section shorter than this joins the next one, as a chapter's title does with its first section."""
_SECTIONS = ("slide", "sheet", "file")
_CLAUSE = re.compile("[，、；：,;:|\n]")
_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class Passage:
    """A run of a document's text, small enough for the embedder."""

    text: str
    start: int
    """Code-point offset into the document's text."""
    end: int
    page: str | None
    """The page (slide, sheet) where it starts."""
    line: int
    """The line where it starts, from 1."""
    headings: tuple[str, ...] = ()
    """Headings above it, outermost first."""


def split(document: Document, count_tokens: Callable[[str], int], max_tokens: int) -> list[Passage]:
    """Cut a document into passages of at most `max_tokens` by `count_tokens`, and about `TARGET` characters.

    Every character that is not white space lies in exactly one passage.
    """
    return list(iter_passages(document, count_tokens, max_tokens))


def iter_passages(
    document: Document, count_tokens: Callable[[str], int], max_tokens: int, *, target: int = TARGET
) -> Iterator[Passage]:
    """The same one after another, for documents whose passages should not all be in memory.

    Time is linear in the text: each passage's tokens are counted once, and again only where it was too long.
    """
    text = document.text
    units = _Units(document)
    limit = target
    while units.peek() is not None:
        taken = units.take(limit)
        start, end = taken[0][0], taken[-1][1]
        tokens = count_tokens(text[start:end])
        while tokens > max_tokens and end - start > 1:
            limit = max(1, min(int((end - start) * max_tokens / tokens * 0.95), end - start - 1))
            units.give_back(taken)
            taken = units.take(limit)
            start, end = taken[0][0], taken[-1][1]
            tokens = count_tokens(text[start:end])
        yield Passage(
            text[start:end], start, end, document.page_at(start), document.line_at(start), document.headings_at(start)
        )
        # the next passage is likely as dense as this one
        limit = min(target, max(1, int((end - start) * max_tokens / max(tokens, 1) * 0.95)))


class _Units:
    """A document's sentences in order, cut where one alone is too long for a passage."""

    def __init__(self, document: Document) -> None:
        self._text = document.text
        self._borders = sorted({mark.start for mark in document.marks if mark.level > 0 or mark.kind in _SECTIONS})
        self._walls = sorted({mark.start for mark in document.marks if mark.kind == "file"})
        self._sentences = self._iterate()
        self._ahead: deque[tuple[int, int]] = deque()

    def _iterate(self) -> Iterator[tuple[int, int]]:
        """No sentence goes on across a heading, a slide or a sheet."""
        edges = [0, *self._borders, len(self._text)]
        for start, end in pairwise(edges):
            yield from iter_sentences(self._text, start, end)

    def peek(self) -> tuple[int, int] | None:
        """The next sentence, left where it is."""
        if not self._ahead:
            following = next(self._sentences, None)
            if following is None:
                return None
            self._ahead.append(following)
        return self._ahead[0]

    def take(self, limit: int) -> list[tuple[int, int]]:
        """The next sentences that make a passage of at most `limit` characters; at least one, cut if need be."""
        taken = [self._pop(limit)]
        start = taken[0][0]
        while (following := self.peek()) is not None:
            end = taken[-1][1]
            if self._parted(end, following[0], end - start, limit):
                break
            if following[1] - start > limit:
                room = limit - (following[0] - start)
                if (end - start) * 4 < limit and room * 2 > limit:
                    taken.append(self._pop(room))
                break
            taken.append(self._pop(limit))
        return taken

    def give_back(self, units: list[tuple[int, int]]) -> None:
        """Undo a `take`; sentences that it cut stay cut."""
        self._ahead.extendleft(reversed(units))

    def _parted(self, end: int, following: int, size: int, limit: int) -> bool:
        """Whether a passage of this size should end before what follows."""
        if _between(self._walls, end, following):
            return True  # no passage holds two members of an archive: it is cited by one name
        if size >= _TINY and _between(self._borders, end, following):
            return True
        return size >= limit * _ENOUGH and "\n" in self._text[end:following]

    def _pop(self, limit: int) -> tuple[int, int]:
        start, end = self._ahead.popleft()
        if end - start <= limit:
            return start, end
        at = _cut(self._text, start, start + limit)
        rest, piece = trim(self._text, at, end), trim(self._text, start, at)
        if rest is not None:
            self._ahead.appendleft(rest)
        return piece or (start, at)


def _between(places: list[int], start: int, end: int) -> bool:
    """Whether one of the sorted places lies from `start` to `end`."""
    return bisect_left(places, start) < bisect_right(places, end)


def _cut(text: str, start: int, latest: int) -> int:
    """Where to cut an overlong sentence: after a comma, else a space, in its second half; else anywhere."""
    earliest = start + (latest - start) // 2
    for pattern in (_CLAUSE, _SPACE):
        ends = [found.end() for found in pattern.finditer(text, earliest, latest)]
        if ends:
            return ends[-1]
    while latest - start > 1 and (unicodedata.combining(text[latest]) or text[latest] in "\u200d\ufe0f"):
        latest -= 1
    return latest
