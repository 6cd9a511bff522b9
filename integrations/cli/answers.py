"""Shows an answer while it is written, then what there is to say about it, then its citations.

Knows the shape of answers, and neither where they come from nor any command's options.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .output import note, quoted, say, short

if TYPE_CHECKING:
    from ...core import Model
    from ...rag import Answer


def show_notes(notes: Iterable[str]) -> None:
    """What the user should know about how the answer came about, a line each."""
    for line in notes:
        note(f"({line})")


def show_citations(citations: Iterable[Mapping[str, Any]]) -> None:
    """Numbered sources: file, page or line, and the quoted passage."""
    from ...rag.paths import place_of

    for citation in citations:
        place = place_of(*(citation[name] for name in ("file", "member", "page", "line")))
        say(f"[{citation['number']}] {short(citation['file'])}, {place}")
        say(quoted(citation["quote"]))


def show_answer(answer: Answer) -> None:
    """What stands below an answer's text."""
    say()
    show_notes(answer.notes)
    if answer.citations:
        say()
        show_citations(map(dataclasses.asdict, answer.citations))


def plain_answer(answer: Answer, model: Model | None) -> dict[str, Any]:
    """An answer for JSON, with the model that wrote it."""
    told = dataclasses.asdict(answer)
    told["model"] = model.name if model and answer.mode != "extract" else None
    return told
