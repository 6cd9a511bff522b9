"""Who uses a library of the server, so that it is deleted only when nobody does. Knows no library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...core.errors import LibraryBusy
from .errors import NotHere

READERS_SECONDS = 5.0
"""How long deletion waits for searches and answers that are under way."""


class Gate:
    """Lets readers and changes in until the library is retired. Thread-safe."""

    def __init__(self) -> None:
        self._left = threading.Condition()
        self._reading = 0
        self._changing = 0
        self._retired = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The library stays open meanwhile. Raises `NotHere` where it was deleted since it was looked up."""
        with self._left:
            self._enter()
            self._reading += 1
        try:
            yield
        finally:
            with self._left:
                self._reading -= 1
                self._left.notify_all()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """As `reading`; deletion does not wait for changes."""
        with self._left:
            self._enter()
            self._changing += 1
        try:
            yield
        finally:
            with self._left:
                self._changing -= 1

    def retire(self, waiting: int = 0) -> None:
        """Let nobody in any more. `waiting`: documents that are still to be read.

        Raises `LibraryBusy`, and leaves all as it was, where something is changed or read for longer than it waits.
        """
        with self._left:
            if waiting or self._changing:
                raise LibraryBusy(
                    f"Documents of the library are being read or changed ({waiting + self._changing}).",
                    "Wait until they are ready, or delete them first.",
                )
            self._retired = True
            if not self._left.wait_for(lambda: self._reading == 0, READERS_SECONDS):
                self._retired = False
                raise LibraryBusy(
                    f"Questions over the library are being answered ({self._reading}).",
                    "Try again when they are, or stop them first.",
                )

    def _enter(self) -> None:
        if self._retired:
            raise NotHere("The library was deleted meanwhile.", "GET /v1/libraries lists them.")
