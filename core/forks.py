"""What does not survive a fork: native threads, and locks on files. A forked process is told so instead of hanging."""

from __future__ import annotations

import os

from .errors import EngineFailure


class Home:
    """The process that first used something; those forked from it since may not."""

    def __init__(self, what: str) -> None:
        """`what`: "a library", as the error names it."""
        self._what = what
        self._process: int | None = None

    @property
    def is_elsewhere(self) -> bool:
        """Whether it was first used in the process that this one was forked from."""
        return self._process not in (None, os.getpid())

    def enter(self) -> None:
        """Before each use. Raises `EngineFailure` in a process that was forked after the first."""
        if self._process is None:
            self._process = os.getpid()
        elif self._process != os.getpid():
            raise EngineFailure(
                f"This process was forked from one that had used {self._what}, which cannot go on in both.",
                f"Start it with the spawn method, or use {self._what} in it alone.",
            )
