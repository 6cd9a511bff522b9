"""File → text with its pages, headings and encoding.

Knows no library and no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mark:
    """A place where something begins in a document's text."""

    start: int
    """Code-point offset into `Document.text`."""
    kind: str
    """page, heading, slide, sheet, table, chapter."""
    label: str
    """Page number ("12"), heading text, sheet name."""
    level: int = 0
    """Depth of a heading, from 1; 0 for the rest."""


@dataclass(frozen=True)
class Document:
    """What was read from one file."""

    text: str
    marks: tuple[Mark, ...] = ()
    title: str = ""
    kind: str = "text"
    """text, markdown, html, pdf, docx, …"""
    encoding: str | None = None
    """Encoding of a plain-text file; None for formats that say their own."""
    warnings: tuple[str, ...] = ()
    """What the reader could not read, in words for the user."""

    def page_at(self, offset: int) -> str | None:
        """The page (slide, sheet) that holds this offset; None where the format has none."""
        raise NotImplementedError

    def line_at(self, offset: int) -> int:
        """The line of the text that holds this offset, from 1."""
        raise NotImplementedError

    def headings_at(self, offset: int) -> tuple[str, ...]:
        """The headings above this offset, outermost first."""
        raise NotImplementedError


def read(path: Path, *, encoding: str | None = None) -> Document:
    """Read one file. Raises `UnreadableDocument` where no text can be had, saying why."""
    raise NotImplementedError


def is_readable(path: Path) -> bool:
    """Whether the file's type is one that `read` knows."""
    raise NotImplementedError
