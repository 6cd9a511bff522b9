"""The users' documents: a library for each, taking files in, and passages for prompts. Knows no model and no page.

One person at one host has libraries by name, the same that the command line uses. Under --multi-user each login has a
library of its own, and whoever is not logged in has one that ends with the host; who asks is known to the page alone,
so the API gets no documents there.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ...core.errors import BadInput, HanpacaError
from ...rag import Library, Progress
from ...rag.consulting import Consulted
from ...rag.isolation import read_isolated
from ...rag.library import DATABASE
from ...rag.names import library_folder, library_names
from ...rag.uploads import clean_name, document_name, document_path
from . import host

LOOK_SECONDS = 0.3
"""How often progress is shown."""
MOST_SESSIONS = 32
"""Pages without a login whose documents are kept at the same time; beyond them the one that was idle longest goes."""
IDLE_SECONDS = 24 * 3600.0
"""After which a page's documents go."""


@dataclass(frozen=True)
class Row:
    """One file in the tab."""

    name: str
    state: str
    path: str = ""
    """What the library calls it; empty for one that it does not have."""


class Documents:
    """Libraries that stay open while the host runs. Thread-safe."""

    def __init__(self) -> None:
        self.last: dict[str | None, Consulted] = {}
        """What was looked up last, by user."""
        self._libraries: dict[Path, Library] = {}
        self._sessions: tempfile.TemporaryDirectory[str] | None = None
        self._seen: dict[Path, tuple[str, float]] = {}
        """A session's folder → whose it is, and when it was used last; the latest last."""
        self._lock = threading.Lock()

    def owner(self) -> str | None:
        """Whose documents they are; None where one person has the host."""
        return host.user() if host.multi_user() else None

    def library(self, name: str, *, create: bool = False) -> Library | None:
        """The library of whoever is asking; None where there is none. Raises `BadInput` where nobody knows who asks
        and one should be made."""
        folder = self._folder(name)
        if folder is None:
            if create:
                raise BadInput("Under --multi-user documents belong to a page's user.", "Use them from the page.")
            return None
        with self._lock:
            self._drop_idle()
            if folder not in self._libraries:
                if not create and not (folder / DATABASE).is_file():
                    return None
                self._libraries[folder] = Library.open(folder, create=create)
            return self._libraries[folder]

    def names(self) -> list[str]:
        """Libraries that can be chosen; under --multi-user nobody chooses."""
        return [] if host.multi_user() else library_names()

    def _folder(self, name: str) -> Path | None:
        if not host.multi_user():
            return library_folder(name)
        owner = host.user()
        if owner is None:
            return None
        if owner.startswith("user "):
            return library_folder(f"webui {owner}")
        with self._lock:
            if self._sessions is None:
                self._sessions = tempfile.TemporaryDirectory(prefix="hanpaca-webui-", ignore_cleanup_errors=True)
            folder = Path(self._sessions.name) / hashlib.sha256(owner.encode()).hexdigest()[:32]
            self._seen.pop(folder, None)
            self._seen[folder] = owner, time.monotonic()
        return folder

    def _drop_idle(self) -> None:
        """Close and delete what pages left behind: nobody tells when one is closed."""
        now = time.monotonic()
        for folder, (owner, used) in list(self._seen.items()):
            if len(self._seen) <= MOST_SESSIONS and now - used < IDLE_SECONDS:
                return
            del self._seen[folder]
            self.last.pop(owner, None)
            if library := self._libraries.pop(folder, None):
                library.close()
            shutil.rmtree(folder, ignore_errors=True)

    # -- files -----------------------------------------------------------------------------------------------------

    def rows(self, name: str) -> list[Row]:
        """The files of the library."""
        library = self.library(name)
        found = []
        for info in [] if library is None else library.files():
            told = f"passages: {info.passages}"
            if info.embedded < info.passages:
                told += f", {info.embedded} with vectors"
            found.append(Row(document_name(info.path), "; ".join([told, *info.warnings]), info.path))
        return sorted(found, key=lambda row: row.name)

    def upload(self, name: str, paths: Sequence[str]) -> Iterator[list[Row]]:
        """Take files in; tells where each stands, again and again. A file that cannot be read says why in its row."""
        library = self.library(name, create=True)
        assert library is not None
        rows = [Row(clean_name(Path(path).name), "waiting") for path in paths]
        for at, path in enumerate(paths):
            rows[at] = replace(rows[at], state="reading …")
            yield list(rows)
            rows[at] = _taken(library, Path(path), rows[at])
            yield list(rows)
        yield from self._embed(library, rows)

    def _embed(self, library: Library, rows: list[Row]) -> Iterator[list[Row]]:
        """Compute vectors; files are found by their words meanwhile."""
        heard: list[Progress] = []
        with ThreadPoolExecutor(1, "hanpaca-webui") as pool:
            work = pool.submit(library.embed_pending, heard.append)
            waited = threading.Event()
            work.add_done_callback(lambda _: waited.set())
            while not waited.wait(LOOK_SECONDS):
                done = next((told for told in reversed(heard) if told.stage == "embed"), None)
                if done is not None:
                    yield [*rows, Row("vectors", f"{done.done} of {done.total}")]
            try:
                work.result()
            except HanpacaError as error:
                yield [*rows, Row("vectors", str(error))]
                return
        yield list(rows)

    def delete(self, name: str, paths: Sequence[str]) -> int:
        """Remove files from the library, so that no byte of them is left in it; how many."""
        library = self.library(name)
        if library is None:
            return 0
        for path in paths:
            library.delete(path)
        return len(paths)

    def close(self) -> None:
        """Close all libraries."""
        with self._lock:
            for library in self._libraries.values():
                library.close()
            self._libraries.clear()
            self._seen.clear()
            if self._sessions is not None:
                self._sessions.cleanup()
                self._sessions = None


def _taken(library: Library, path: Path, row: Row) -> Row:
    """The row of a file after it was read."""
    try:
        with path.open("rb") as file:
            id = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        document = read_isolated(path)
        there = document_path(id, row.name)
        count = library.add_document(document, there, embed=False)
    except (HanpacaError, OSError) as error:
        return replace(row, state=f"not read: {error}")
    return replace(row, state="; ".join([f"passages: {count}", *document.warnings]), path=there)
