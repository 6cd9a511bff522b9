"""Files that could not be read, and why: a sync does not try such a file again until something has changed.

Knows no reader. What counts as a change besides the file: Hanpaca's version, whether pictures are recognised (OCR),
and the encoding that was asked for.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable

from .. import __version__ as VERSION
from .reading import ocr
from .store import Store

State = tuple[int, int]
"""Size of a file and the time of its last change."""
_HERE = uuid.uuid4().hex
"""A condition that holds in this process only: the next one tries again, and a watch does not at every change."""


def remembered(store: Store, path: str, state: State, encoding: str | None) -> str | None:
    """What was wrong with this file, if it would be wrong again."""
    found = store.rows(
        "SELECT message FROM failures WHERE path = ? AND size = ? AND modified = ? AND version IN (?, ?)",
        (path, *state, _conditions(encoding), _HERE),
    )
    return str(found[0][0]) if found else None


def remember(store: Store, path: str, state: State, encoding: str | None, message: str, lasting: bool) -> None:
    """Note what is wrong; `lasting` is False where the file itself may be well: then other processes try it again."""
    row = (path, *state, _conditions(encoding) if lasting else _HERE, message)
    with store.write() as writing:
        writing.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?)", row)


def forget(store: Store, is_over: Callable[[str], bool]) -> None:
    """Drop the failures of these paths."""
    old = [row[0] for row in store.rows("SELECT path FROM failures")]
    if over := [(path,) for path in old if is_over(path)]:
        with store.write() as writing:
            writing.executemany("DELETE FROM failures WHERE path = ?", over)


def _conditions(encoding: str | None) -> str:
    return f"{VERSION} ocr={ocr.is_available()} encoding={encoding}"
