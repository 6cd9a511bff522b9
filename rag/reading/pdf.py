"""PDF: page by page through pypdfium2, lines that the layout broke joined again.

Knows no OCR beyond asking `ocr` for the text of pages that have none.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from ...core.errors import UnreadableDocument
from ..encodings import common_share
from ..readers import Document
from . import ocr
from .build import TextBuilder, clean
from .lines import join_lines, usual_width

MAX_PAGES = 20_000


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
    pages = [_lines(pdf, index) for index in range(len(pdf))]
    garbled = [index for index, lines in enumerate(pages) if _is_garbled("".join(lines))]
    silent = [index for index, lines in enumerate(pages) if not any(lines)]
    builder = TextBuilder()
    recognised = ocr.pages(pdf, garbled + silent)
    unread_garbled = [index for index in garbled if index not in recognised]
    unread_silent = [index for index in silent if index not in recognised and _has_image(pdf, index)]
    for index in garbled:
        pages[index] = []
    for index, lines in recognised.items():
        pages[index] = lines
    if not any(map(any, pages)):
        raise _nothing(len(pages), len(unread_garbled))
    _drop_running_lines(pages)
    width = usual_width(pages)
    for index, lines in enumerate(pages):
        builder.break_(2)
        builder.mark("page", str(index + 1))
        builder.add(join_lines(lines, width))
    if unread_garbled:
        builder.warnings.append(f"{_these(unread_garbled)}: the fonts do not say which characters they show; not read")
    if unread_silent:
        builder.warnings.append(f"{_these(unread_silent)}: only pictures, no text; not read (see the extra ocr)")
    title = pdf.get_metadata_dict().get("Title", "")
    return builder.document("pdf", title if not _is_garbled(title) else "")


def _nothing(pages: int, garbled: int) -> UnreadableDocument:
    if garbled:
        what = "The text of the PDF is garbled: its fonts do not say which characters they show."
    else:
        what = f"The PDF has no text on any of its {pages} page(s); they are pictures or empty."
    return UnreadableDocument(what, ocr.HINT)


def _lines(pdf: Any, index: int) -> list[str]:
    """The lines of a page; a page that is broken by itself counts as empty."""
    import pypdfium2

    try:
        page = pdf[index]
        text: str = page.get_textpage().get_text_range(errors="replace")
    except pypdfium2.PdfiumError:
        return []
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


def _has_image(pdf: Any, index: int) -> bool:
    import pypdfium2
    from pypdfium2 import raw

    try:
        return next(iter(pdf[index].get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=4)), None) is not None
    except pypdfium2.PdfiumError:
        return False


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


def _these(indexes: list[int]) -> str:
    """pages 1, 2, 5–9 in words."""
    runs: list[list[int]] = []
    for number in sorted(index + 1 for index in indexes):
        if runs and runs[-1][-1] == number - 1:
            runs[-1][-1:] = [runs[-1][-1], number] if len(runs[-1]) == 1 else [number]
        else:
            runs.append([number])
    shown = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs[:20])
    return f"page(s) {shown}{', …' if len(runs) > 20 else ''}"
