"""Passages as a search gives them, and the document around them. Reads the store's tables; knows no ranking."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from .paths import place_of
from .sentences import iter_sentences
from .store import Store


@dataclass(frozen=True)
class Hit:
    """A passage that was found."""

    passage_id: int
    text: str
    file: str
    page: str | None
    line: int
    """In the file's text; in an archive, in the member's."""
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
    member: str | None = None
    """The file's name within an archive."""

    def page_at(self, offset: int) -> str | None:
        """The page that holds this offset of the document."""
        return next((page or None for start, page in reversed(self.pages) if start <= offset), self.page)

    def line_at(self, offset: int) -> int:
        """The line that holds this offset of the document."""
        return self.line + self.text.count("\n", 0, max(0, offset - self.start))

    @property
    def place(self) -> str:
        """ "page 12", "line 30", or "notes.txt, line 30" in an archive."""
        return place_of(self.file, self.member, self.page, self.line)


MARGIN = 64
"""So many characters around are looked at besides for where sentences begin."""
SELECT = (
    "SELECT p.id, p.text, f.path, p.page, p.line, p.headings, p.start, p.end, p.language, f.title, p.pages, p.file,"
    " p.position, p.gap, f.kind FROM passages p JOIN files f ON f.id = p.file"
)


def hit_of(row: tuple[Any, ...], score: float = 0.0, explain: Mapping[str, Any] | None = None) -> Hit:
    """A row of `SELECT` as a hit."""
    number, text, path, page, line, marks, start, end, language, _, pages, _, _, _, kind = row
    turns = tuple((offset, label) for offset, label in json.loads(pages))
    headings = tuple(json.loads(marks))
    member = headings[0] if kind == "zip" and headings else None
    return Hit(
        number, text, path, page, line, headings, start, end, score, language, explain or {}, turns, member
    )  # fmt: skip


def unchanged(store: Store, hits: Sequence[Hit]) -> bool:
    """Whether the library still holds these passages, in the same files."""
    marks = ",".join("?" * len(hits))
    rows = store.rows(f"{SELECT} WHERE p.id IN ({marks})", [hit.passage_id for hit in hits])
    found = {(hit.passage_id, hit.file, hit.text) for hit in map(hit_of, rows)}
    return found == {(hit.passage_id, hit.file, hit.text) for hit in hits}


def passages(store: Store, path: str) -> list[Hit]:
    """All passages of a file, in their order."""
    rows = store.rows(f"{SELECT} WHERE f.path = ? ORDER BY p.position", (path,))
    return [hit_of(row) for row in rows]


def filled(store: Store, hit: Hit, most: int) -> Hit:
    """The hit filled up with sentences of its section around it, first those before, up to `most` characters in all.

    An answer may begin in one passage and end in the next, and a sentence may lean on the one before it.
    """
    parts = [part for part in _around(store, hit, 1) if part[1].headings == hit.headings]
    if not parts:
        return hit
    wide = _joined(hit, parts)
    start, end = hit.start, hit.end
    for first, _ in reversed(_sentences_before(wide.text, start - wide.start, most - len(hit.text))):
        if end - wide.start - first > most:
            break
        start = wide.start + first
    for _, last in _sentences_after(wide.text, end - wide.start):
        if wide.start + last - start > most:
            break
        end = wide.start + last
    text = wide.text[start - wide.start : end - wide.start]
    turns = tuple(turn for turn in wide.pages if start < turn[0] < end)
    page, line = wide.page_at(start), wide.line_at(start)
    return replace(wide, text=text, page=page, line=line, start=start, end=end, pages=turns)


def _sentences_before(text: str, at: int, room: int) -> list[tuple[int, int]]:
    """The sentences that end before `at`, at least those that fit into `room` characters."""
    cut = max(0, at - max(0, room) - MARGIN)
    while cut and text[cut - 1].isspace():
        cut -= 1
    cut = max(0, cut - 1)
    spans = list(takewhile(lambda span: span[1] <= at, iter_sentences(text, cut)))
    return spans[1:] if cut else spans  # the first may be half of one


def _sentences_after(text: str, at: int) -> Iterator[tuple[int, int]]:
    """The sentences that begin at `at` or later."""
    return (span for span in iter_sentences(text, max(0, at - MARGIN)) if span[0] >= at)


def widen(store: Store, hit: Hit, count: int) -> Hit:
    """The hit with `count` passages before and after it, as one run of the document's text (an archive's member's)."""
    parts = _around(store, hit, count)
    return _joined(hit, parts) if parts else hit


def _around(store: Store, hit: Hit, count: int) -> list[tuple[str, Hit]]:
    """(what stands before it, passage) for the hit's own passage and `count` on either side; none if it is gone."""
    with store.read() as reading:
        rows = reading.execute(
            f"{SELECT} JOIN passages m ON m.file = p.file WHERE m.id = ?"
            " AND p.position BETWEEN m.position - ? AND m.position + ? ORDER BY p.position",
            (hit.passage_id, count, count),
        ).fetchall()
    parts = [(row[13], hit_of(row)) for row in rows]
    return [part for part in parts if part[1].member == hit.member]


def _joined(hit: Hit, parts: Sequence[tuple[str, Hit]]) -> Hit:
    """Passages that follow each other as one hit."""
    first, last = parts[0][1], parts[-1][1]
    text = first.text + "".join(gap + part.text for gap, part in parts[1:])
    pages: list[tuple[int, str]] = []
    for _, part in parts:
        turns = [(part.start, part.page or ""), *part.pages]
        pages += [turn for turn in turns if turn[1] != (pages[-1][1] if pages else first.page or "")]
    return replace(
        first, passage_id=hit.passage_id, text=text, end=last.end, pages=tuple(pages), score=hit.score,
        explain=hit.explain, language=hit.language,
    )  # fmt: skip
