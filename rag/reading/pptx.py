"""PowerPoint presentations: per slide its title, texts, tables, diagrams and notes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from ...core.errors import UnreadableDocument
from ..readers import Document
from . import ocr
from .build import TextBuilder
from .zips import open_zip

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_WHAT = "presentation"


def read(data: bytes, name: str, encoding: str | None) -> Document:
    """A .pptx file with a mark per slide, labelled by its number, from 1; slide titles are headings."""
    import pptx

    open_zip(data, _WHAT)
    builder = TextBuilder()
    try:
        presentation = pptx.Presentation(io.BytesIO(data))
        for number, slide in enumerate(presentation.slides, 1):
            _slide(builder, slide, number)
    except UnreadableDocument:
        raise
    except Exception as error:  # python-pptx lets KeyError, ValueError and lxml's errors through
        raise UnreadableDocument(f"This {_WHAT} is broken.", "Open it in PowerPoint and save it again.") from error
    if builder.warnings and not builder.length:
        raise ocr.no_text(_WHAT)
    return builder.document("pptx", presentation.core_properties.title or "")


def _slide(builder: TextBuilder, slide: Any, number: int) -> None:
    builder.break_(2)
    builder.mark("slide", str(number))
    start = builder.length
    title = slide.shapes.title
    if title is not None and title.has_text_frame:
        builder.heading(title.text_frame.text, 1)
    pictures: list[bytes] = []
    for shape in _shapes(slide.shapes):
        if title is not None and shape.shape_id == title.shape_id:
            continue
        if getattr(shape, "has_table", False) and shape.has_table:
            builder.table([cell.text for cell in row.cells] for row in shape.table.rows)
        elif shape.has_text_frame:
            builder.paragraph(shape.text_frame.text.replace("\v", "\n"))
        elif hasattr(shape, "image"):
            pictures.append(shape.image.blob)
    for text in _diagrams(slide):
        builder.paragraph(text)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        builder.paragraph(slide.notes_slide.notes_text_frame.text)
    ocr.add_pictures(builder, pictures, start, f"slide {number}")


def _shapes(shapes: Any) -> Iterator[Any]:
    """All shapes, those within groups too."""
    for shape in shapes:
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes)
        else:
            yield shape


def _diagrams(slide: Any) -> Iterator[str]:
    """The words of SmartArt, which lie in a part of their own."""
    from lxml import etree

    for relation in slide.part.rels.values():
        if not relation.is_external and relation.reltype.endswith("/diagramData"):
            parser = etree.XMLParser(resolve_entities=False, no_network=True)
            root = etree.fromstring(relation.target_part.blob, parser)
            paragraphs = ("".join(run.text or "" for run in par.iter(f"{_A}t")) for par in root.iter(f"{_A}p"))
            yield "\n".join(text for text in paragraphs if text.strip())
