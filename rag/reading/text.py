"""Plain text and source code: the file's own characters and lines, nothing changed but line ends."""

from __future__ import annotations

from ...core.encodings import decode
from ..readers import Document
from .headings import chapters


def read(data: bytes, name: str, encoding: str | None) -> Document:
    """Plain text; lines such as 第三章 or 第十二回 are headings."""
    text, codec, warnings = text_of(data, encoding)
    return Document(text, tuple(chapters(text)), kind="text", encoding=codec, warnings=warnings)


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
