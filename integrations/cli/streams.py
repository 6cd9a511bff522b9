"""The standard streams, so that a command runs however it was started. Knows no command."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def prepare() -> None:
    """Open on nothing what was closed (`>&-`), so that no file gets its number; and let no character that a terminal
    lacks, and no byte that is no text, end the command: they are written `\\u2026`, and read as U+FFFD."""
    for name in ("stdin", "stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: its own
            setattr(sys, name, os.fdopen(nothing, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))
        elif hasattr(stream, "reconfigure") and (stream.errors == "strict" or not is_unicode(stream)):
            stream.reconfigure(errors="replace" if name == "stdin" else "backslashreplace")


def is_unicode(stream: Any) -> bool:
    """Whether a stream takes every character as it is."""
    return str(getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf")


def harmless(text: str) -> str:
    """A text without control characters but line ends and tabs: a document may hold what moves a terminal's cursor,
    hides lines or renames its window."""
    return _CONTROL.sub("", text)
