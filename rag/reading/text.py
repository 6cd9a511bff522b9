"""Plain text and source code: the file's own characters and lines, nothing changed but line ends."""

from __future__ import annotations

import re

from ..encodings import decode
from ..readers import Document, Mark

_CHAPTER = re.compile(
    r"^[ \t　]*第[ 　]?[〇零一二三四五六七八九十百千两0-9０-９]{1,7}[ 　]?(?P<unit>[卷编篇部章回节])"
    r"(?:[ \t　:：.、][^\n。；;]{0,60})?[ \t　]*$",
    re.MULTILINE,
)
_DEPTH = {"卷": 1, "编": 1, "篇": 1, "部": 1, "章": 2, "回": 2, "节": 3}


def read(data: bytes, name: str, encoding: str | None) -> Document:
    """Plain text; lines such as 第三章 or 第十二回 are headings."""
    text, codec, warnings = text_of(data, encoding)
    marks = tuple(
        Mark(found.start(), "heading", found.group().strip(" \t　"), _DEPTH[found["unit"]])
        for found in _CHAPTER.finditer(text)
    )
    return Document(text, marks, kind="text", encoding=codec, warnings=warnings)


def read_code(data: bytes, name: str, encoding: str | None) -> Document:
    """Source code and data files that people read as text."""
    text, codec, warnings = text_of(data, encoding)
    return Document(text, kind="code", encoding=codec, warnings=warnings)


def text_of(data: bytes, encoding: str | None) -> tuple[str, str, tuple[str, ...]]:
    """Decoded text with `\\n` as its only line end, the encoding, and warnings."""
    decoded = decode(data, encoding)
    text = decoded.text
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text, decoded.encoding, decoded.warnings
