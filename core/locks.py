"""Locks on open files that end with the process, whatever ends it."""

from __future__ import annotations

import fcntl
from typing import IO, Any


def locked(file: IO[Any] | int) -> bool:
    """Lock an open file or folder until it is closed; False where another process, or another opening, has it.

    Raises `OSError` on a file system without locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
