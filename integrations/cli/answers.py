"""Shows an answer while it is written, then what there is to say about it, then its citations.

Knows the shape of answers, and neither where they come from nor any command.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from .output import note, quoted, say, short


def write(piece: str) -> None:
    """A piece of an answer, at once."""
    sys.stdout.write(piece)
    sys.stdout.flush()


def show_notes(notes: Iterable[str]) -> None:
    """What the user should know about how the answer came about, a line each."""
    for line in notes:
        note(f"({line})")


def show_citations(citations: Iterable[Mapping[str, Any]]) -> None:
    """Numbered sources: file, page or line, and the quoted passage."""
    for citation in citations:
        place = f"page {citation['page']}" if citation["page"] else f"line {citation['line']}"
        say(f"[{citation['number']}] {short(citation['file'])}, {place}")
        say(quoted(citation["quote"]))
