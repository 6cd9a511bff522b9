"""Joins lines that a page's layout broke, so that a word cut by a line end is found again.

Knows only lines of text: a line that fills the column and does not end a sentence goes on in the next one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WIDE = re.compile("[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6]")
_ENDS = re.compile(r"[。！？!?；;：:.…][”’』」\"')）\]]*\Z")
_OPENS = re.compile(
    r"\s*(?:[•·●○■□▪–—*#$>|◦]|-\s|[0-9]{1,3}(?:\.[0-9]+)*[.、)）]?\s|[（(]?[一二三四五六七八九十]{1,3}[)）、]|第.{1,5}[条章节])"
)


def usual_width(pages: Sequence[Sequence[str]]) -> float:
    """The width of a full line: nine in ten lines are no wider. Wide characters count two."""
    widths = sorted(_width(line) for lines in pages for line in lines if line.strip())
    return widths[len(widths) * 9 // 10] if widths else 0


def join_lines(lines: Sequence[str], full: float) -> str:
    """One page's lines as text; between Chinese characters a broken line is joined without a space."""
    parts: list[str] = []
    before = ""
    for line in lines:
        line = line.strip()
        if before and line and _goes_on(before, line, full):
            parts.append("" if _WIDE.match(before[-1]) and _WIDE.match(line[0]) else " ")
        elif parts:
            parts.append("\n")
        parts.append(line)
        before = line
    return "".join(parts).strip("\n")


def _goes_on(line: str, following: str, full: float) -> bool:
    return _width(line) >= 0.7 * full and _ENDS.search(line) is None and _OPENS.match(following) is None


def _width(line: str) -> int:
    return len(line) + len(_WIDE.findall(line))
