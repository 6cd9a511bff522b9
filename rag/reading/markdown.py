"""Markdown: the text as it stands, so that line numbers are the file's; headings become marks.

Knows only what bears on headings: fenced code, which may hold lines that begin with #, and front matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..readers import Document, Mark
from .build import squeeze
from .text import text_of

_LINE = re.compile(r"[^\n]*\n|[^\n]+\Z")
_FENCE = re.compile(r" {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)")
_ATX = re.compile(r" {0,3}(?P<hashes>#{1,6})(?=[ \t])")
_SETEXT = re.compile(r" {0,3}(?P<rule>=+|-{2,})[ \t]*\n?\Z")
_TITLE = re.compile(r"^title:[ \t]*(?P<title>[^\n]+)$", re.MULTILINE | re.IGNORECASE)
_NO_PARAGRAPH = re.compile(r" {0,3}(?:[-*+>|]|\d+[.)]\s|#)|\s{4}|\t|\s*\Z")

_LONGEST = 300
"""Characters of a heading that become its label."""


def read(data: bytes, name: str, encoding: str | None) -> Document:
    """A Markdown file."""
    text, codec, warnings = text_of(data, encoding)
    front = _front_matter(text)
    marks = tuple(_headings(text, front))
    named = _TITLE.search(text, 0, front)
    title = named["title"].strip("\"' \t") if named else next((mark.label for mark in marks if mark.level == 1), "")
    return Document(text, marks, squeeze(title), "markdown", codec, warnings)


def _front_matter(text: str) -> int:
    """Where the front matter between two lines of --- ends; 0 without one."""
    if not text.startswith("---\n"):
        return 0
    found = re.compile(r"^(?:---|\.\.\.)[ \t]*$", re.MULTILINE).search(text, 4)
    return found.end() if found else 0


def _headings(text: str, at: int) -> Iterator[Mark]:
    fence = ""
    before = ""  # the line above, where it may be the text of an underlined heading
    for found in _LINE.finditer(text, at):
        line = found.group()
        mark = _FENCE.match(line)
        if fence:
            closes = mark is not None and mark["fence"].startswith(fence) and not mark["info"].strip()
            fence = "" if closes else fence
        elif mark is not None and "`" not in mark["info"]:
            fence = mark["fence"]
        elif (atx := _ATX.match(line)) is not None:
            if label := _label(line[atx.end() :]):
                yield Mark(found.start(), "heading", label, len(atx["hashes"]))
        elif before and (rule := _SETEXT.match(line)) is not None:
            yield Mark(found.start() - len(before), "heading", _label(before), 1 if rule["rule"][0] == "=" else 2)
        else:
            before = "" if _NO_PARAGRAPH.match(line) else line
            continue
        before = ""


def _label(text: str) -> str:
    """A heading's words without link targets, emphasis and {#anchors}."""
    text = text.strip()[:_LONGEST]
    bare = text.rstrip("#")
    if bare[-1:].isspace() or not bare:
        text = bare.strip()
    text = re.sub(r"\{#[^}]*\}\Z", "", text)
    text = re.sub(r"!?\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])", r"\1", text)
    text = re.sub(r"<[^>]+>", "", text)
    return squeeze(text.replace("**", "").replace("`", "")) or squeeze(text)
