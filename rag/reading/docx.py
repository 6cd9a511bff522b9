"""Word documents: paragraphs, headings, lists, tables, notes and text boxes, in the order in which they stand.

python-docx opens the package and knows the styles; the body is walked here, because its own iteration passes over
content controls, which hold whole pages in forms and contracts.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from ...core.errors import UnreadableDocument
from ..readers import Document
from . import ocr
from .build import TextBuilder
from .zips import open_zip

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SKIPPED = frozenset({f"{_W}del", f"{_W}moveFrom", f"{_W}instrText", f"{_W}delText", _FALLBACK})
_CONTAINERS = frozenset(
    _W + name for name in ("sdt", "sdtContent", "customXml", "ins", "moveTo", "smartTag", "footnote", "endnote")
)
_HEADING = re.compile(r"(?:heading|标题|標題)\s*([1-9])\Z", re.IGNORECASE)
_WHAT = "Word document"


def read(data: bytes, name: str, encoding: str | None) -> Document:
    """A .docx file."""
    import docx

    archive = open_zip(data, _WHAT)
    try:
        document = docx.Document(io.BytesIO(data))
        body = document.element.body
    except Exception as error:  # python-docx lets KeyError, ValueError and lxml's errors through
        raise UnreadableDocument(f"This {_WHAT} is broken.", "Open it in Word and save it again.") from error
    levels = _heading_levels(document)
    builder = TextBuilder()
    _blocks(builder, body, levels)
    for part in _note_parts(document):
        _blocks(builder, part, levels)
    pictures = [
        archive.read(info) for info in archive.infolist() if info.filename.startswith("word/media/") and info.file_size
    ]
    ocr.add_pictures(builder, pictures, 0, "document")
    if pictures and not builder.length:
        raise ocr.no_text(_WHAT)
    builder.find_chapters()
    return builder.document("docx", document.core_properties.title or "")


def _heading_levels(document: Any) -> dict[str, int]:
    """Style id → depth of heading. A style inherits the depth of the one it is based on."""
    levels: dict[str, int] = {}
    for style in document.styles:
        based: Any = style
        for _ in range(10):
            level = _level_of(based)
            if level:
                levels[style.style_id] = level
                break
            based = getattr(based, "base_style", None)
            if based is None:
                break
    return levels


def _level_of(style: Any) -> int:
    found = _HEADING.match(style.name or "")
    if found is not None:
        return int(found[1])
    if style.name == "Title":
        return 1
    outline = style.element.find(f"{_W}pPr/{_W}outlineLvl")
    return _outline(outline)


def _outline(element: Any) -> int:
    """Word counts outline levels from 0; 9 means body text."""
    value = element.get(f"{_W}val", "9") if element is not None else "9"
    return int(value) + 1 if value.isdigit() and int(value) < 9 else 0


def _note_parts(document: Any) -> Iterator[Any]:
    from lxml import etree

    for relation in document.part.rels.values():
        if not relation.is_external and relation.reltype.rsplit("/", 1)[-1] in ("footnotes", "endnotes"):
            parser = etree.XMLParser(resolve_entities=False, no_network=True)
            yield etree.fromstring(relation.target_part.blob, parser)


def _blocks(builder: TextBuilder, parent: Any, levels: dict[str, int]) -> None:
    for element in parent.iterchildren():
        if element.tag == f"{_W}p":
            _paragraph(builder, element, levels)
        elif element.tag == f"{_W}tbl":
            builder.table(_rows(element))
        elif element.tag in _CONTAINERS:
            _blocks(builder, element, levels)


def _paragraph(builder: TextBuilder, element: Any, levels: dict[str, int]) -> None:
    text = _text(element)
    properties = element.find(f"{_W}pPr")
    style = properties.find(f"{_W}pStyle") if properties is not None else None
    level = levels.get(style.get(f"{_W}val", ""), 0) if style is not None else 0
    if properties is not None:
        level = _outline(properties.find(f"{_W}outlineLvl")) or level
    listed = properties is not None and properties.find(f"{_W}numPr") is not None
    if level:
        builder.heading(text, level)
    elif listed and text.strip():
        builder.break_()
        builder.add(f"- {text.strip()}")
    else:
        builder.paragraph(text.rstrip())
    for box in element.iter(f"{_W}txbxContent"):
        if not any(ancestor.tag == _FALLBACK for ancestor in box.iterancestors()):
            _blocks(builder, box, levels)


def _text(paragraph: Any) -> str:
    """A paragraph's words, without deleted ones, field codes and text boxes."""
    parts: list[str] = []
    pending = [paragraph]
    while pending:
        element = pending.pop()
        if element.tag == f"{_W}t":
            parts.append(element.text or "")
        elif element.tag == f"{_W}tab":
            parts.append("\t")
        elif element.tag in (f"{_W}br", f"{_W}cr"):
            parts.append("\n")
        elif element.tag == f"{_W}noBreakHyphen":
            parts.append("-")
        if element.tag not in _SKIPPED and element.tag not in (f"{_W}txbxContent", f"{_W}pPr"):
            pending.extend(reversed(element))
    return "".join(parts)


def _rows(table: Any) -> Iterator[list[str]]:
    for row in table.iter(f"{_W}tr"):
        if next(row.iterancestors(f"{_W}tbl")) is table:
            cells = [cell for cell in row.iter(f"{_W}tc") if next(cell.iterancestors(f"{_W}tbl")) is table]
            yield [" ".join(_text(paragraph) for paragraph in cell.iter(f"{_W}p")) for cell in cells]
