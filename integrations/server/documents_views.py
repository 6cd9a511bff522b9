"""What a document of a library looks like at a passage: the text around it, and a PDF's page. Knows no HTTP."""

from __future__ import annotations

from pathlib import Path

from ...core.errors import BadInput
from ...rag import Library
from ...rag.drawing import Drawing, draw
from ...rag.uploads import FOLDER, UPLOAD_ID, document_id
from .errors import NotHere

AROUND = 1500
"""Characters before and after a passage that are shown with it."""


def text(library: Library, id: str, start: int, end: int) -> tuple[str, int, bool]:
    """The document's text around these offsets, where it begins, and whether more follows. Raises `NotHere`."""
    shown, first = "", 0
    for hit in sorted(library.passages(_path(library, id)), key=lambda hit: hit.start):
        if hit.start >= end + AROUND:
            return shown, first, True
        if hit.end <= start - AROUND:
            continue
        if not shown:
            first = hit.start
        known = first + len(shown)
        shown += "\n" * max(0, hit.start - known) + hit.text[max(0, known - hit.start) :]
    return shown, first, False


def page(library: Library, id: str, start: int, end: int, number: int | None) -> Drawing:
    """A PDF's page with the text between these offsets marked, its first page unless another is named."""
    path = _path(library, id)
    kept = library.folder / FOLDER / f"{id}.pdf" if UPLOAD_ID.fullmatch(id) else Path(path)
    if kept.suffix.lower() != ".pdf" or not kept.is_file():
        raise BadInput("This document has no pages that can be drawn.", "GET its /text instead.")
    if number is not None and start == end:
        return draw(kept, number)
    ordered = sorted(library.passages(path), key=lambda hit: hit.start)
    hits = [hit for hit in ordered if hit.start < end and hit.end > start]
    if not hits:
        raise BadInput("The document has no text at these offsets.", "Take those of a source or of search.")
    label = hits[0].page_at(max(start, hits[0].start))
    if number is None and not label:
        raise BadInput("This text stands on no page.", "Name one, or GET its /text instead.")
    shown, first, _ = text(library, id, start, end)
    return draw(kept, number or int(label or 1), shown[max(0, start - first) : end - first])


def _path(library: Library, id: str) -> str:
    path = next((info.path for info in library.files() if document_id(info.path) == id), None)
    if path is None:
        raise NotHere("There is no document of this id in the library.", "GET /v1/documents lists them.")
    return path
