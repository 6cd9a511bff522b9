"""PDF: page by page through pypdfium2, lines that the layout broke joined again.

Knows no OCR beyond asking `ocr` for the text of pages that have none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from ...core.encodings import common_share
from ...core.errors import UnreadableDocument
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
    pages = _Pages(pdf)
    if not any(map(any, pages.lines)):
        raise pages.nothing()
    _drop_running_lines(pages.lines)
    width = usual_width(pages.lines)
    builder = TextBuilder()
    starts: list[int] = []
    for number, lines in enumerate(pages.lines, 1):
        builder.break_(2)
        starts.append(builder.length)
        builder.mark("page", str(number))
        builder.add(join_lines(lines, width))
    builder.add_marks(from_outline(builder.text(), starts, _outline(pdf)))
    builder.find_chapters()
    builder.warnings += pages.warnings()
    title = pdf.get_metadata_dict().get("Title", "")
    return builder.document("pdf", "" if _is_garbled(title) else title)


def _outline(pdf: Any) -> Iterator[tuple[int, int, str]]:
    """(page index, depth, title) of the bookmarks that name a page."""
    for item in islice(pdf.get_toc(max_depth=6), _MAX_BOOKMARKS):
        target = item.get_dest()
        page = target.get_index() if target is not None else None
        if page is not None:
            yield page, item.level, clean(item.get_title())


class _Pages:
    """The lines of every page, and the numbers of those that could not be read."""

    def __init__(self, pdf: Any) -> None:
        self._garbled: list[int] = []
        self._pictures: list[int] = []
        self._broken: list[int] = []
        self.lines = [self._read(pdf, number) for number in range(1, len(pdf) + 1)]

    def _read(self, pdf: Any, number: int) -> list[str]:
        import pypdfium2

        try:
            page = pdf[number - 1]
        except pypdfium2.PdfiumError:  # one broken page does not spoil the others
            self._broken.append(number)
            return []
        try:
            return self._lines(page, number)
        finally:
            page.close()

    def _lines(self, page: Any, number: int) -> list[str]:
        """A page's own text; where that is garbled, or next to nothing beside a picture, what OCR makes of it."""
        textpage = page.get_textpage()
        text: str = textpage.get_text_range(errors="replace")
        garbled = _is_garbled(text) or (_is_guessed(textpage) and not _makes_sense(text))
        lines = [] if garbled else _lines(text)
        if not garbled and (len(text) >= ocr.LITTLE or not _has_picture(page)):
            return lines
        recognised = ocr.recognise_page(page)
        if sum(map(len, recognised)) > sum(map(len, lines)):
            return recognised
        if garbled:
            self._garbled.append(number)
        elif not ocr.is_available():
            self._pictures.append(number)
        return lines

    def nothing(self) -> UnreadableDocument:
        """The error for a PDF without any text."""
        if self._garbled:
            what = "The text of the PDF is garbled: its fonts do not say which characters they show."
        else:
            what = f"The PDF has no text on any of its {len(self.lines)} page(s); they are pictures or empty."
        return UnreadableDocument(what, ocr.NOTHING_FOUND if ocr.is_available() else ocr.HINT)

    def warnings(self) -> list[str]:
        """What stayed unread, in words."""
        hint = "" if ocr.is_available() else f". {ocr.HINT}"
        said = (
            (self._garbled, f"the fonts do not say which characters they show; not read{hint}"),
            (self._pictures, f"a picture and hardly any text; the picture is not read{hint}"),
            (self._broken, "broken; not read"),
        )
        return [f"{_these(numbers)}: {what}" for numbers, what in said if numbers]


def _lines(text: str) -> list[str]:
    # U+FFFE is PDFium's mark of a hyphen that the layout put in
    text = re.sub("[\ufffe\x02](?:\r\n)?", "", text)
    text = re.sub(r"(?: ?\.){5,}", " …", text)  # the dots of a table of contents
    return [clean(line).rstrip() for line in re.split(r"\r\n|\n|\r", text)]


def _is_guessed(textpage: Any) -> bool:
    """Whether PDFium guessed most characters, since the fonts carry no table to Unicode. Looks at a hundred of them.

    A guess may be right: old TeX fonts name their glyphs as the alphabet does.
    """
    from pypdfium2 import raw

    count = textpage.count_chars()
    looked = range(0, count, max(count // 100, 1))
    guessed: int = sum(raw.FPDFText_HasUnicodeMapError(textpage, index) == 1 for index in looked)
    return guessed * 2 > len(looked)


def _makes_sense(text: str) -> bool:
    """Whether guessed text reads like English or Chinese: vowels among small letters, common characters."""
    letters = [char for char in text if char.isalpha()]
    latin = [char for char in letters if char.isascii()]
    if len(latin) * 2 > len(letters):
        vowels = sum(char in "aeiouAEIOU" for char in latin)
        return 0.2 < vowels / len(latin) < 0.6 and sum(map(str.islower, latin)) * 2 > len(latin)
    return common_share("".join(letters)) > 0.3


def _is_garbled(text: str) -> bool:
    """Private or invalid characters, or ideographs of which hardly any is common: a font with a wrong table."""
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
