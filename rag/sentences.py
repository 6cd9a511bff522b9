"""Where sentences end, in Chinese and in English. Knows nothing of documents or tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator

_CLOSERS = "”’」』）】》〉\"')\\]"
_CANDIDATE = re.compile(
    rf"[。！？；…｡]+[{_CLOSERS}]*"  # Chinese: always an end
    rf"|[.!?]+[{_CLOSERS}]*"  # others: an end if what stands around it says so
    r"|\n\s*"  # a line end: an end unless the line was only wrapped
)
_ABBREVIATION = re.compile(
    r"(?<![\w.])(?:[A-Za-z]|(?:[A-Za-z]\.)+[A-Za-z]|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|cf|al|Fig|Figs|No|Nos|Vol|pp|"
    r"ed|eds|Ch|Sec|Eq|Ref|Inc|Ltd|Co|Corp|Dept|approx|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Gen|Col|Lt|Sgt|"
    r"Capt|Rev|Hon|Gov|Sen|Rep|e\.g|i\.e)\Z"
)
_MAY_END = frozenset({"etc", "al", "Inc", "Ltd", "Co", "Corp", "Jr", "Sr"})
_LIST_ITEM = re.compile(
    r"[-*+•·●○■□▪◦–—#>|$%~=`]|\d{1,3}(?:\.\d+)*[.)、．]|[（(][^\s()（）]{1,4}[)）]|第.{1,6}[条章节回]|[一二三四五六七八九十]+、"
)
_WIDE = re.compile("[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6]")
_WRAP_COLUMNS = 50
"""Text is not wrapped at fewer columns than this; a shorter line ended by itself."""


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence, covering all of the text that is not white space.

    >>> [text[a:b] for text in ["“好。”他说3.5元。Dr. Li came. OK?"] for a, b in sentences(text)]
    ['“好。”', '他说3.5元。', 'Dr. Li came.', 'OK?']
    """
    return list(iter_sentences(text))


def iter_sentences(text: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int]]:
    """The sentences of `text[start:end]` one after another, in linear time and constant memory."""
    end = len(text) if end is None else end
    for found in _CANDIDATE.finditer(text, start, end):
        if found.end() > start and _ends(text, found, start):
            span = trim(text, start, found.end())
            if span is not None:
                yield span
            start = found.end()
    span = trim(text, start, end)
    if span is not None:
        yield span


def trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The span without white space at its ends; None where nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _ends(text: str, found: re.Match[str], start: int) -> bool:
    first = text[found.start()]
    if first in "。！？；…｡":
        return True
    if first in ".!?":
        return _stops(text, found, start)
    return found.group().count("\n") > 1 or not _wrapped(text, found)


def _stops(text: str, found: re.Match[str], start: int) -> bool:
    """Whether . ! ? and what closes after them end a sentence."""
    after = text[found.end() : found.end() + 1]
    before = text[max(found.start() - 1, 0) : found.start()]
    if after and not after.isspace():
        # 3.5, a.txt and hanpaca.rag go on; Chinese typed with ASCII marks does not
        return bool(_WIDE.match(after)) and (first_is_mark(found) or bool(_WIDE.match(before)))
    if text[found.start()] != "." or found.group().startswith(".."):
        return True
    following = text[found.end() : found.end() + 40].lstrip()[:1]
    if following.islower():
        return False
    abbreviation = _ABBREVIATION.search(text, max(start, found.start() - 12), found.start())
    if abbreviation is None:
        return not (before.isdigit() and _only_number(text, start, found.start()))
    return abbreviation.group() in _MAY_END and following.isupper()


def first_is_mark(found: re.Match[str]) -> bool:
    """Whether the candidate begins with ! or ?, which no number or file name holds."""
    return found.group()[0] in "!?"


def _only_number(text: str, start: int, end: int) -> bool:
    """A list number such as 3. or 2.1. at the sentence's beginning."""
    return end - start < 12 and re.fullmatch(r"\s*[\d.]+", text[start:end]) is not None


def _wrapped(text: str, found: re.Match[str]) -> bool:
    """Whether a line end only wraps: the line is wide, and the next is no list item, table row or heading."""
    begin = text.rfind("\n", max(0, found.start() - 200), found.start()) + 1 or max(0, found.start() - 200)
    line = text[begin : found.start()].rstrip()
    if len(line) + len(_WIDE.findall(line)) < _WRAP_COLUMNS or " | " in line or line.lstrip().startswith("#"):
        return False
    return found.end() < len(text) and _LIST_ITEM.match(text, found.end()) is None
