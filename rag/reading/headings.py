"""Finds headings where the format does not mark them: chapter lines of plain text, titles of a PDF's outline."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ..readers import Mark

_CHAPTER = re.compile(
    r"^[ \t　]*第[ 　]?[〇零一二三四五六七八九十百千两0-9０-９]{1,7}[ 　]?(?P<unit>[卷编篇部章回节])"
    r"(?:[ \t　:：.、][^\n。；;]{0,60})?[ \t　]*$",
    re.MULTILINE,
)
_DEPTH = {"卷": 1, "编": 1, "篇": 1, "部": 1, "章": 2, "回": 2, "节": 3}
_AROUND = 24
"""Characters that a heading's line may hold besides the title: its number."""


def chapters(text: str) -> Iterator[Mark]:
    """Lines such as 第三章 总则 or 第十二回 that stand alone."""
    for found in _CHAPTER.finditer(text):
        yield Mark(found.start(), "heading", found.group().strip(" \t　"), _DEPTH[found["unit"]])


def from_outline(text: str, page_starts: Sequence[int], outline: Iterable[tuple[int, int, str]]) -> Iterator[Mark]:
    """Headings from (page index, depth from 0, title), found in their page's text where their title is a line.

    A title that is not found begins with its page, which is never wrong by more than a page.
    """
    ends = [*page_starts[1:], len(text)]
    reached = 0
    for page, depth, raw in outline:
        title = " ".join(raw.split())
        begin = max(page_starts[page], reached) if 0 <= page < len(ends) else -1
        if not title or not 0 <= begin <= ends[page]:  # no such page, or one before the title above
            continue
        start, label = _line_with(text, title, begin, ends[page]) or (begin, title)
        if start >= reached:
            reached = start
            yield Mark(start, "heading", label, depth + 1)


def _line_with(text: str, title: str, begin: int, end: int) -> tuple[int, str] | None:
    at = text.find(title, begin, end)
    while at >= 0:
        start = text.rfind("\n", begin, at) + 1 or begin
        stop = text.find("\n", at)
        stop = len(text) if stop < 0 else stop
        if stop - start <= len(title) + _AROUND:
            return start, text[start:stop].strip()
        at = text.find(title, at + 1, end)
    return None
