"""A page of a PDF as a picture, and where a quotation stands on it.

PDFium runs in a process of its own for each page: a file that crashes it, or never ends, costs one error message.
Knows no library and no HTTP.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.children import command
from ..core.errors import BadInput, UnreadableDocument

TIMEOUT = 60.0
"""Seconds that a page may take."""
WIDTH = 1000
"""Pixels of the picture's longer side."""
_LEAST = 4
"""Characters of a quotation's beginning or end that are worth marking where a page holds no more of it."""


@dataclass(frozen=True)
class Drawing:
    """A page as it looks."""

    page: int
    """From 1."""
    pages: int
    """How many the file has."""
    png: bytes
    width: int
    """In pixels; `height` too."""
    height: int
    rectangles: tuple[tuple[float, float, float, float], ...]
    """Left, top, right, bottom of each line of the quotation, as shares of width and height from the top left."""
    marked: str
    """The page's own text of what the rectangles cover; empty where the page does not hold the quotation."""


def draw(path: Path, page: int, quote: str = "") -> Drawing:
    """Draw a page. Raises `BadInput` for a page that is not there, `UnreadableDocument` for a broken file."""
    asked = json.dumps({"path": str(path.absolute()), "page": page, "quote": quote}).encode()
    try:
        run = subprocess.run(command(__name__, "serve"), input=asked, capture_output=True, timeout=TIMEOUT, check=False)
        told = json.loads(run.stdout) if run.returncode == 0 else {"problem": "Its page cannot be drawn."}
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise UnreadableDocument(f"{path.name}: its page cannot be drawn.", "Read its text instead.") from error
    if "pages" not in told:
        raise UnreadableDocument(f"{path.name}: {told['problem']}", "Read its text instead.")
    if "png" not in told:
        raise BadInput(f"There is no page {page} in this PDF.", f"It has {told['pages']}.")
    rectangles = tuple(tuple(one) for one in told.pop("rectangles"))
    return Drawing(page=page, png=base64.b64decode(told.pop("png")), rectangles=rectangles, **told)


def serve() -> None:
    """The other end: one request from standard input, one answer to standard output."""
    asked = json.loads(sys.stdin.buffer.read())
    sys.stdout.write(json.dumps(_draw(asked["path"], asked["page"], asked["quote"])))


def _draw(path: str, number: int, quote: str) -> dict[str, Any]:
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(path)
        if not 1 <= number <= len(pdf):
            return {"pages": len(pdf)}
        page = pdf[number - 1]
    except pypdfium2.PdfiumError as error:
        return {"problem": f"PDFium says: {error}"}
    bitmap = page.render(scale=WIDTH / max(*page.get_size(), 1.0))
    picture = io.BytesIO()
    bitmap.to_pil().save(picture, "PNG")
    marked, rectangles = _marked(page, quote)
    return {
        "pages": len(pdf),
        "png": base64.b64encode(picture.getvalue()).decode(),
        "width": bitmap.width,
        "height": bitmap.height,
        "rectangles": [_share(page, bitmap, one) for one in rectangles],
        "marked": marked,
    }


def _marked(page: Any, quote: str) -> tuple[str, list[tuple[float, float, float, float]]]:
    """The page's text that is the quotation, and its rectangles in PDF units."""
    text = page.get_textpage()
    characters = [text.get_text_range(index, 1, errors="replace") for index in range(text.count_chars())]
    found = find("".join(one[:1] or "\0" for one in characters), quote)
    if found is None:
        return "", []
    start, end = found
    lines: list[tuple[float, float, float, float]] = []
    for index in range(start, end):
        if _letters(characters[index]):
            _extend(lines, text.get_charbox(index, loose=True))
    return "".join(characters[start:end]), lines


def _extend(lines: list[tuple[float, float, float, float]], box: tuple[float, float, float, float]) -> None:
    """Add a character's box to the last line's if they stand side by side, else begin a line.

    Boxes of whole characters, not of their ink: a font that is not in the file has none where it is not installed.
    """
    left, bottom, right, top = box
    if lines and lines[-1][1] < (bottom + top) / 2 < lines[-1][3]:
        last = lines[-1]
        lines[-1] = (min(last[0], left), min(last[1], bottom), max(last[2], right), max(last[3], top))
    else:
        lines.append(box)


def find(text: str, quote: str) -> tuple[int, int] | None:
    """Where a page's text holds a quotation, however lines and spaces fall; else its longest beginning or end there.

    >>> find("One two-\\r\\n three", "two- three"), find("the end", "sentence before the end"), find("a", "b")
    ((4, 16), (0, 7), None)
    """
    places = [(index, char) for index, whole in enumerate(text) for char in _letters(whole)]
    page, wanted = "".join(char for _, char in places), "".join(map(_letters, quote))
    if not wanted:
        return None
    at, length = page.find(wanted), len(wanted)
    if at < 0:
        head = _longest(lambda size: page.endswith(wanted[:size]), length)
        tail = _longest(lambda size: page.startswith(wanted[-size:]), length)
        length = max(head, tail)
        if length < _LEAST:
            return None
        at = len(page) - length if head >= tail else 0
    return places[at][0], places[at + length - 1][0] + 1


def _longest(holds: Any, most: int) -> int:
    return next((size for size in range(most, 0, -1) if holds(size)), 0)


def _letters(text: str) -> str:
    """What counts in comparing: no spaces, hyphens of the layout or control characters; compatible forms alike."""
    plain = unicodedata.normalize("NFKC", text)
    return "".join(char for char in plain if not char.isspace() and char.isprintable() and char != "\ufffe")


def _share(page: Any, bitmap: Any, rectangle: tuple[float, float, float, float]) -> list[float]:
    """A rectangle in PDF units as shares of the picture; the page may be cropped or turned."""
    left, bottom, right, top = rectangle
    position = bitmap.get_posconv(page)
    (x1, y1), (x2, y2) = position.to_bitmap(left, top), position.to_bitmap(right, bottom)
    (x1, x2), (y1, y2) = sorted((x1, x2)), sorted((y1, y2))
    return [x1 / bitmap.width, y1 / bitmap.height, x2 / bitmap.width, y2 / bitmap.height]
