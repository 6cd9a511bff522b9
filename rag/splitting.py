"""Text → passages: sentence boundaries, real token lengths, exact source offsets.

`document.text[passage.start:passage.end] == passage.text`, always.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .readers import Document


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
    """Cut a document into passages of at most `max_tokens` by `count_tokens`."""
    raise NotImplementedError


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence, covering all of the text that is not white space."""
    raise NotImplementedError
