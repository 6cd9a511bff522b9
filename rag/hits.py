"""Passages as a search gives them, and the document around them. Reads the store's tables; knows no ranking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .paths import place_of
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


def passages(store: Store, path: str) -> list[Hit]:
    """All passages of a file, in their order."""
    rows = store.connection.execute(f"{SELECT} WHERE f.path = ? ORDER BY p.position", (path,))
    return [hit_of(row) for row in rows]


def widen(store: Store, hit: Hit, count: int) -> Hit:
    """The hit with `count` passages before and after it, as one run of the document's text (an archive's member's)."""
    with store.read() as reading:
        rows = reading.execute(
            f"{SELECT} JOIN passages m ON m.file = p.file WHERE m.id = ? AND abs(p.position - m.position) <= ?"
            " ORDER BY p.position",
            (hit.passage_id, count),
        ).fetchall()
    if not rows:
        return hit
    rows = [row for row in rows if hit_of(row).member == hit.member]
    parts = [hit_of(row) for row in rows]
    text = parts[0].text + "".join(row[13] + row[1] for row in rows[1:])
    pages: list[tuple[int, str]] = []
    for part in parts:
        turns = [(part.start, part.page or ""), *part.pages]
        pages += [turn for turn in turns if turn[1] != (pages[-1][1] if pages else parts[0].page or "")]
    return replace(
        parts[0], passage_id=hit.passage_id, text=text, end=parts[-1].end, pages=tuple(pages), score=hit.score,
        explain=hit.explain,
    )  # fmt: skip
