"""Text of pictures through rapidocr, where the extra `ocr` is installed. Its models are in its wheel.

Knows when to ask (a page that says next to nothing but shows a picture) and how to say that it cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any

from ...core.errors import UnreadableDocument
from .build import TextBuilder

HINT = 'To recognise text in pictures, pip install "hanpaca[ocr]" and read the file again.'
"""Libraries keep it with a file and know by it what to read again (`rag.sync`): reworded, it misses older ones."""
NOTHING_FOUND = "Recognition (OCR) found nothing either; look whether the pictures hold text."

LITTLE = 50
"""Characters; a page or slide with fewer that shows a picture is taken for a scan."""

_DPI = 150
_MIN_SCORE = 0.6

on_page: ContextVar[Callable[[], object] | None] = ContextVar("on_page", default=None)
"""Called after each page, so that a time limit can tell slow from stuck."""


def is_available() -> bool:
    """Whether the extra is installed."""
    return find_spec("rapidocr") is not None


def recognise_page(page: Any) -> list[str]:
    """Lines of a pypdfium2 page, from its picture; none where the extra is missing."""
    if not is_available():
        return []
    bitmap = page.render(scale=_DPI / 72)
    try:
        return _recognise(bitmap.to_numpy())
    finally:
        bitmap.close()


def add_pictures(builder: TextBuilder, pictures: Sequence[bytes], since: int, place: str) -> None:
    """Recognise a place's pictures where it has little text since the offset `since`; otherwise say they are unread."""
    if not pictures or builder.length - since >= LITTLE:
        return
    if not is_available():
        builder.warnings.append(f"{place}: {len(pictures)} picture(s) and hardly any text; not read. {HINT}")
        return
    unread = 0
    for picture in pictures:
        try:
            builder.paragraph("\n".join(_recognise(picture)))
        except Exception:  # vector graphics and odd formats, for each of which rapidocr raises something else
            unread += 1
    if unread:
        builder.warnings.append(f"{place}: {unread} picture(s) of a kind that cannot be recognised")


def no_text(what: str) -> UnreadableDocument:
    """The error for a file that shows pictures only."""
    return UnreadableDocument(f"The {what} has no text, only pictures.", NOTHING_FOUND if is_available() else HINT)


def _recognise(picture: Any) -> list[str]:
    result = _engine()(picture)
    told = on_page.get()
    if told is not None:
        told()
    lines = zip(result.txts or (), result.scores or (), strict=True)
    return [text for text, score in lines if score >= _MIN_SCORE]


@cache
def _engine() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR(params={"Global.log_level": "critical"})
