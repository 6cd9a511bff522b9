"""Puts a document's text together piece by piece, keeping the offsets of its marks.

Knows no format.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..readers import Document, Mark
from . import headings

_SPACES = re.compile(r"[ \t\r\n\f\v\xa0]+")
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")


def squeeze(text: str) -> str:
    """One line: runs of white space become one space. Full-width spaces stay; Chinese text means them."""
    return _SPACES.sub(" ", text).strip(" ")


def clean(text: str) -> str:
    """Without control characters, stray surrogates and non-characters, which no database or tokenizer accepts."""
    return _UNWANTED.sub("", text)


def _row(cells: list[str]) -> str:
    """One line; a row with one filled cell is that cell, without bars."""
    filled = [cell for cell in cells if cell]
    return " | ".join(cells) if len(filled) > 1 else "".join(filled)


class TextBuilder:
    """Collects text and marks; every block begins on a new line."""

    def __init__(self) -> None:
        self.length = 0
        self.warnings: list[str] = []
        self._parts: list[str] = []
        self._marks: list[Mark] = []

    def add(self, text: str) -> None:
        """Add text as it is."""
        if text:
            self._parts.append(text)
            self.length += len(text)

    def mark(self, kind: str, label: str, level: int = 0) -> None:
        """Something begins here."""
        self._marks.append(Mark(self.length, kind, label, level))

    def break_(self, lines: int = 1) -> None:
        """End the line, and leave `lines - 1` empty ones, unless that is done already."""
        tail = "".join(self._parts[-2:])
        ended = len(tail) - len(tail.rstrip("\n"))
        if self.length:
            self.add("\n" * (lines - ended))

    def paragraph(self, text: str) -> None:
        """A block of text with an empty line before it."""
        if text.strip():
            self.break_(2)
            self.add(clean(text))

    def heading(self, text: str, level: int) -> None:
        """A heading: a paragraph of its own, and a mark."""
        label = squeeze(clean(text))
        if label:
            self.break_(2)
            self.mark("heading", label, level)
            self.add(label)
            self.break_(2)

    def table(self, rows: Iterable[Iterable[str]], label: str = "") -> None:
        """A table, one line per row, cells between bars; empty rows are left out."""
        lines = [line for row in rows if (line := _row([squeeze(clean(cell)) for cell in row]))]
        if lines:
            self.break_(2)
            self.mark("table", label)
            self.add("\n".join(lines))
            self.break_(2)

    def include(self, document: Document, deeper: int) -> None:
        """Another document inside this one, its headings `deeper` levels further down."""
        base = self.length
        self._marks += [
            Mark(base + mark.start, mark.kind, mark.label, mark.level + deeper if mark.level else 0)
            for mark in document.marks
        ]
        self.add(document.text)

    def add_marks(self, marks: Iterable[Mark]) -> None:
        """Marks of places that are written already."""
        self._marks = sorted([*self._marks, *marks], key=lambda mark: mark.start)

    def find_chapters(self) -> None:
        """Take chapter lines for headings where the format gave none."""
        if not any(mark.level for mark in self._marks):
            self.add_marks(headings.chapters(self.text()))

    def text(self) -> str:
        """What is written so far."""
        self._parts = ["".join(self._parts)]
        return self._parts[0]

    def document(self, kind: str, title: str = "") -> Document:
        """What was built."""
        return Document(self.text(), tuple(self._marks), squeeze(clean(title)), kind, None, tuple(self.warnings))
