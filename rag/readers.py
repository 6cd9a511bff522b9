"""File → text with its pages, headings and encoding.

Knows no library and no model. What each format needs lies in `reading/`, one module each, imported when first used;
the table below is all that names them. To add a format: write `read(data, name, encoding) -> Document` and add a row.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.errors import BadInput, EmptyDocument, EngineUnavailable, UnreadableDocument

_INK = re.compile(r"\S")
_PLACES = ("page", "slide", "sheet")

MAX_BYTES = 512 * 1024 * 1024
"""Longest file that `read` opens."""

FORMATS: dict[str, str] = {
    ".txt": "text:read",
    ".text": "text:read",
    ".log": "text:read",
    ".rst": "text:read",
    ".tex": "text:read",
    ".org": "text:read",
    ".adoc": "text:read",
    ".srt": "text:read",
    ".md": "markdown:read",
    ".markdown": "markdown:read",
    ".mdx": "markdown:read",
    ".html": "html:read",
    ".htm": "html:read",
    ".xhtml": "html:read",
    ".pdf": "pdf:read",
    ".docx": "docx:read",
    ".pptx": "pptx:read",
    ".xlsx": "tables:read_xlsx",
    ".csv": "tables:read_csv",
    ".tsv": "tables:read_csv",
    ".epub": "epub:read",
    ".zip": "archive:read",
}
_CODE = (
    ".py .pyi .c .h .cc .cpp .hpp .cs .java .kt .scala .go .rs .js .jsx .ts .tsx .vue .rb .php .pl .lua .r .m .swift "
    ".sh .bash .ps1 .bat .sql .json .jsonl .yaml .yml .toml .ini .cfg .conf .xml .css .scss .proto .cmake .gradle"
)
FORMATS.update({suffix: "text:read_code" for suffix in _CODE.split()})

_OLD = {".doc": ".docx", ".xls": ".xlsx", ".ppt": ".pptx"}
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class Mark:
    """A place where something begins in a document's text."""

    start: int
    """Code-point offset into `Document.text`."""
    kind: str
    """page, heading, slide, sheet, table, chapter, file (of an archive)."""
    label: str
    """Page number ("12"), heading text, sheet name. An empty label of a page ends the page before it."""
    level: int = 0
    """Depth of a heading, from 1; 0 for the rest."""


@dataclass(frozen=True)
class Document:
    """What was read from one file. Marks are in the order of their starts."""

    text: str
    marks: tuple[Mark, ...] = ()
    title: str = ""
    kind: str = "text"
    """text, code, markdown, html, pdf, docx, …"""
    encoding: str | None = None
    """Encoding of a plain-text file; None for formats that say their own."""
    warnings: tuple[str, ...] = ()
    """What the reader could not read, in words for the user."""

    def page_at(self, offset: int) -> str | None:
        """The page (slide, sheet) that holds this offset; None where the format has none."""
        starts, labels = self._pages
        index = bisect_right(starts, offset) - 1
        return (labels[index] or None) if index >= 0 else None

    def line_at(self, offset: int) -> int:
        """The line that holds this offset, from 1; in an archive, the line of the member."""
        line, index = bisect_right(self._line_starts, offset), bisect_right(self._members, offset) - 1
        return line - bisect_right(self._line_starts, self._members[index]) + 1 if index >= 0 else line

    def headings_at(self, offset: int) -> tuple[str, ...]:
        """The headings that this offset stands under, outermost first; on a heading's own line, it is the last."""
        starts, paths = self._headings
        index = bisect_right(starts, offset) - 1
        return paths[index] if index >= 0 else ()

    @cached_property
    def _pages(self) -> tuple[list[int], list[str]]:
        pages = [mark for mark in self.marks if mark.kind in _PLACES]
        return [mark.start for mark in pages], [mark.label for mark in pages]

    @cached_property
    def _members(self) -> list[int]:
        return [mark.start for mark in self.marks if mark.kind == "file"]

    @cached_property
    def _line_starts(self) -> array[int]:
        starts, at = array("q", [0]), self.text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        return starts

    @cached_property
    def _headings(self) -> tuple[list[int], list[tuple[str, ...]]]:
        starts: list[int] = []
        paths: list[tuple[str, ...]] = []
        open_: list[Mark] = []
        for mark in self.marks:
            if mark.level < 1:
                continue
            while open_ and open_[-1].level >= mark.level:
                open_.pop()
            open_.append(mark)
            starts.append(mark.start)
            paths.append(tuple(heading.label for heading in open_ if heading.label))
        return starts, paths


def read(path: Path, *, encoding: str | None = None) -> Document:
    """Read one file, `encoding` overriding the rule of `encodings` for plain text.

    Raises `UnreadableDocument` where no text can be had, saying why (`EmptyDocument` where there is none), and
    `BadInput` for a missing file or an extension that is not in `FORMATS`. The file is read once, whole.
    """
    if not path.exists():
        raise BadInput(f"There is no file {path}.", "Check the path.")
    if not path.is_file():
        raise BadInput(f"{path} is not a file.", "Give a file, or use sync for a folder.")
    reader = reader_of(path.name)
    if path.stat().st_size > MAX_BYTES:
        raise UnreadableDocument(f"{path.name} is larger than {MAX_BYTES >> 20} MB.", "Split it into smaller files.")
    try:
        return read_bytes(path.read_bytes(), path.name, encoding, reader)
    except OSError as error:
        raise UnreadableDocument(f"{path.name} cannot be read: {error}.", "Check the permissions.") from error


def read_bytes(data: bytes, name: str, encoding: str | None = None, reader: Reader | None = None) -> Document:
    """Read a file that is already in memory; `name` tells its format and stands in messages."""
    if not data:
        raise EmptyDocument(f"{name} is empty.", "Leave it out, or fill it.")
    try:
        document = (reader or reader_of(name))(data, name, encoding)
    except UnreadableDocument as error:
        raise UnreadableDocument(f"{name}: {error.problem}", error.hint) from error
    except ModuleNotFoundError as error:
        raise EngineUnavailable(
            f"Reading {name} needs the package {error.name}.", 'Install it with: pip install "hanpaca[rag]"'
        ) from error
    if _INK.search(document.text) is None:
        kind = UnreadableDocument if document.warnings else EmptyDocument
        raise kind(f"{name} holds no text.", "Leave it out, or fill it.")
    return document


Reader = Callable[[bytes, str, str | None], Document]


def reader_of(name: str) -> Reader:
    """The function that reads files of this name. Raises `BadInput` that lists the known extensions."""
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if suffix not in FORMATS:
        hint = f"Known: {', '.join(FORMATS)}."
        if suffix in _OLD:
            hint = f"Save it as {_OLD[suffix]} first."
        elif suffix in _IMAGES:
            hint = 'Put pictures into a PDF; with pip install "hanpaca[ocr]" its text is recognised.'
        raise BadInput(f"{name}: files of type {suffix or 'without extension'} are not read.", hint)
    module, function = FORMATS[suffix].split(":")
    loaded: Any = import_module(f"..reading.{module}", __name__)
    found: Reader = getattr(loaded, function)
    return found


def is_readable(path: Path) -> bool:
    """Whether the file's type is one that `read` knows."""
    return path.suffix.lower() in FORMATS
