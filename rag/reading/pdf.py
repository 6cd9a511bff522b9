"""PDF: page by page through pypdfium2, lines that the layout broke joined again.

Knows no OCR beyond asking `ocr` for the text of pages that have none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ...core.errors import UnreadableDocument
from ..encodings import common_share
from ..readers import Document
from . import ocr
from .build import TextBuilder, clean
from .headings import from_outline
from .lines import join_lines, usual_width

MAX_PAGES = 20_000
_MAX_BOOKMARKS = 10_000


def read(data: bytes, name: str, encoding: str | None) -> Document:
    """A PDF file with a mark per page, labelled by its number in the file, from 1."""
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise _refused(error) from error
    try:
        return _document(pdf)
    finally:
        pdf.close()


def _refused(error: Exception) -> UnreadableDocument:
    if "password" in str(error).lower():
        return UnreadableDocument("The PDF is encrypted.", "Save a copy without password and add that.")
    return UnreadableDocument("The PDF is broken.", "Open it in a PDF viewer and save or print it to a new PDF.")


def _document(pdf: Any) -> Document:
    if len(pdf) > MAX_PAGES:
        raise UnreadableDocument(f"The PDF has more than {MAX_PAGES} pages.", "Split it into smaller files.")
    builder = TextBuilder()
    garbled: list[int] = []
    pictures: list[int] = []
    pages = [_page(pdf, number, garbled, pictures) for number in range(1, len(pdf) + 1)]
    if not any(map(any, pages)):
        raise _nothing(len(pages), bool(garbled))
    _drop_running_lines(pages)
    width = usual_width(pages)
    starts: list[int] = []
    for number, lines in enumerate(pages, 1):
        builder.break_(2)
        starts.append(builder.length)
        builder.mark("page", str(number))
        builder.add(join_lines(lines, width))
    builder.add_marks(from_outline(builder.text(), starts, _outline(pdf)))
    builder.find_chapters()
    if garbled:
        builder.warnings.append(f"{_these(garbled)}: the fonts do not say which characters they show; not read")
    if pictures:
        builder.warnings.append(f"{_these(pictures)}: a picture and hardly any text; the picture is not read")
    title = pdf.get_metadata_dict().get("Title", "")
    return builder.document("pdf", "" if _is_garbled(title) else title)


def _outline(pdf: Any) -> Iterator[tuple[int, int, str]]:
    """(page index, depth, title) of the bookmarks that name a page."""
    for item in islice(pdf.get_toc(max_depth=6), _MAX_BOOKMARKS):
        target = item.get_dest()
        page = target.get_index() if target is not None else None
        if page is not None:
            yield page, item.level, clean(item.get_title())


def _page(pdf: Any, number: int, garbled: list[int], pictures: list[int]) -> list[str]:
    """A page's lines; those of its picture where it has hardly any. Notes the pages that stay unread."""
    import pypdfium2

    try:
        page = pdf[number - 1]
        lines = _lines(page)
        text = "".join(lines)
        bad = _is_garbled(text)
        if bad or (len(text) < ocr.LITTLE and _has_picture(page)):
            recognised = ocr.recognise_page(page)
            if bad or sum(map(len, recognised)) > len(text):
                lines = recognised
            if not ocr.is_available():
                (garbled if bad else pictures).append(number)
        page.close()
    except pypdfium2.PdfiumError:  # one broken page does not spoil the others
        return []
    return lines


def _nothing(pages: int, garbled: bool) -> UnreadableDocument:
    if garbled:
        what = "The text of the PDF is garbled: its fonts do not say which characters they show."
    else:
        what = f"The PDF has no text on any of its {pages} page(s); they are pictures or empty."
    return UnreadableDocument(what, ocr.HINT)


def _lines(page: Any) -> list[str]:
    text: str = page.get_textpage().get_text_range(errors="replace")
    # U+FFFE is PDFium's mark of a hyphen that the layout put in
    text = re.sub("[\ufffe\x02](?:\r\n)?", "", text)
    text = re.sub(r"(?: ?\.){5,}", " …", text)  # the dots of a table of contents
    return [clean(line).rstrip() for line in re.split(r"\r\n|\n|\r", text)]


def _is_garbled(text: str) -> bool:
    """Private or invalid characters, or ideographs of which hardly any is common: a font without its table."""
    letters = [char for char in text if not char.isspace()]
    if len(letters) < 10:
        return False
    odd = sum("\ue000" <= char <= "\uf8ff" or char == "\ufffd" or char >= "\U000f0000" for char in letters)
    if odd * 5 > len(letters):
        return True
    ideographs = [char for char in letters if "\u3400" <= char <= "\u9fff"]
    other_asian = any("\u3040" <= char <= "\u30ff" or "\uac00" <= char <= "\ud7a3" for char in letters)
    return len(ideographs) >= 50 and not other_asian and common_share("".join(ideographs)) < 0.1


def _has_picture(page: Any) -> bool:
    from pypdfium2 import raw

    return next(iter(page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=4)), None) is not None


def _drop_running_lines(pages: list[list[str]]) -> None:
    """Remove the first or last line of each page where it is the same, but for numbers, on most pages."""
    for at in (0, -1):
        shapes = Counter(_shape(lines[at]) for lines in pages if len(lines) > 1)
        for shape, count in shapes.items():
            if count >= 4 and count * 2 > len(pages):
                for lines in pages:
                    if len(lines) > 1 and _shape(lines[at]) == shape:
                        del lines[at]


def _shape(line: str) -> str:
    return re.sub(r"[0-9]+|\b[ivxlc]+\b", "#", line.strip())


def _these(numbers: list[int]) -> str:
    """Page numbers in words, the first twenty of them."""
    return f"page(s) {', '.join(map(str, numbers[:20]))}{', …' if len(numbers) > 20 else ''}"
