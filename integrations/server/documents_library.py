"""The libraries that one server has open, by name. Knows no HTTP, and no uploads: those are `documents_uploads.py`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ...core.errors import BadInput, Closed
from ...rag import Library
from ...rag.library import DATABASE
from ...rag.names import library_folder, library_names
from ...rag.removal import remove_library
from .documents_uploads import Shelf
from .errors import NotHere
from .settings import ServerSettings

if TYPE_CHECKING:
    from .metrics import Metrics


class Libraries:
    """Opens each library once and keeps it open. Thread-safe."""

    def __init__(self, settings: ServerSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._shelves: dict[Path, Shelf] = {}
        self._lock = threading.Lock()
        self._closed = False

    def folder(self, name: str | None) -> Path:
        """Where the library of this name lies, whether it exists or not; None is the server's own."""
        own = self._settings
        if own.library_folder is not None and name in (None, own.library):
            return own.library_folder.resolve()
        return library_folder(name or own.library, own.libraries_root).resolve()

    def names(self) -> list[str]:
        """Every library there is; first the server's own, which comes into being with its first document."""
        own = self._settings.library
        return [own, *(name for name in library_names(self._settings.libraries_root) if name != own)]

    def exists(self, name: str) -> bool:
        """Whether there is one of this name."""
        return (self.folder(name) / DATABASE).is_file()

    def shelf(self, name: str | None, *, create: bool = False) -> Shelf:
        """A library with its uploads. Raises `NotHere` where there is none, unless it may be made."""
        folder = self.folder(name)
        with self._lock:
            if self._closed:
                raise BadInput("The server is stopping.", "Try again when it runs.")
            if folder not in self._shelves:
                if not create and not (folder / DATABASE).is_file():
                    called = name or self._settings.library
                    raise NotHere(f"There is no library {called[:80]!r}.", "Make it: POST /v1/libraries.")
                self._shelves[folder] = Shelf(Library.open(folder, create=create), self._metrics)
            return self._shelves[folder]

    def remove(self, name: str) -> None:
        """Delete a library with its uploads. Raises `NotHere`, and `LibraryBusy` while documents are read into it."""
        folder = self.folder(name)
        with self._lock:  # nobody opens it meanwhile
            if self._closed:
                raise Closed("The server is stopping.", "Try again when it runs.")
            if not (folder / DATABASE).is_file():
                raise NotHere(f"There is no library {name[:80]!r}.", "GET /v1/libraries lists them.")
            if (shelf := self._shelves.get(folder)) is not None:
                shelf.retire()
                del self._shelves[folder]
                shelf.close()
            remove_library(folder)

    def resume(self) -> None:
        """Open the server's own library, if it exists, so that what an earlier run left unread is read."""
        if self.exists(self._settings.library):
            self.shelf(None)

    def close(self) -> None:
        """End all work and close the libraries."""
        with self._lock:
            self._closed = True
            shelves = list(self._shelves.values())
        for shelf in shelves:
            shelf.close()
