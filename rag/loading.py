"""Files → texts with their metadata, for frameworks that split and index by themselves. Knows no framework."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..core.errors import BadInput, HanpacaError
from .finding import find_files
from .isolation import read_isolated
from .readers import FORMATS, Document, read

log = logging.getLogger(__name__)
UNITS = ("page", "file")
_PLACES = ("page", "slide", "sheet")


@dataclass(frozen=True)
class Part:
    """One page of a file, or all of it."""

    text: str
    metadata: dict[str, Any]
    """file, page (None where the format has none), line, headings, start, end, title, kind, encoding, warnings: plain
    values only, because vector stores take nothing else."""


def load_parts(
    paths: Sequence[Path | str], *, unit: str = "page", encoding: str | None = None, skip_unreadable: bool = False
) -> Iterator[Part]:
    """The texts of files and of all readable files in folders, one at a time.

    `unit` page gives a part per page, slide or sheet (all of a file that has none), file gives one per file. Offsets
    are code points of the file's whole text. Raises `UnreadableDocument` for a file that gives no text, and `BadInput`
    for one that is missing; with `skip_unreadable` such files of a folder are logged and left out.
    """
    check_unit(unit)
    for path in find_files(paths).files:
        try:
            document = _read(Path(path), encoding)
        except HanpacaError as error:
            if not skip_unreadable:
                raise
            log.warning("%s was left out: %s", path, error)
            continue
        yield from parts_of(document, path, unit)


def check_unit(unit: str) -> None:
    """Raise `BadInput` for a unit that there is not."""
    if unit not in UNITS:
        raise BadInput(f"{unit!r} is not a unit of loading.", f"Valid: {', '.join(UNITS)}.")


def paths_of(given: Path | str | Sequence[Path | str]) -> list[Path | str]:
    """One path or several as a list. Raises `BadInput` for anything else."""
    paths = [given] if isinstance(given, Path | str) or not isinstance(given, Iterable) else list(given)
    for path in paths:
        if not isinstance(path, Path | str):
            raise BadInput(f"{path!r} is no path.", "Give a file, a folder, or a list of them.")
    return paths


def parts_of(document: Document, path: str, unit: str = "page") -> Iterator[Part]:
    """The parts of a document that has been read; empty pages are left out."""
    starts = [mark.start for mark in document.marks if mark.kind in _PLACES] if unit == "page" else []
    edges = sorted({0, *starts, len(document.text)})
    for start, end in pairwise(edges):
        text = document.text[start:end]
        if text.strip():
            yield Part(text, _metadata(document, path, start, end))


def _metadata(document: Document, path: str, start: int, end: int) -> dict[str, Any]:
    return {
        "file": path,
        "page": document.page_at(start),
        "line": document.line_at(start),
        "headings": " > ".join(document.headings_at(start)),
        "start": start,
        "end": end,
        "title": document.title,
        "kind": document.kind,
        "encoding": document.encoding,
        "warnings": "\n".join(document.warnings),
    }


def _read(path: Path, encoding: str | None) -> Document:
    """Plain text here; formats whose parsers may hang or crash in a process of their own."""
    plain = FORMATS.get(path.suffix.lower(), "").startswith(("text:", "markdown:"))
    return read(path, encoding=encoding) if plain else read_isolated(path, encoding=encoding)
