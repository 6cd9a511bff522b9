"""Chroma as the index of a large library's vectors: it holds ids and vectors and nothing else.

It can be thrown away at any time: SQLite has every vector, and `outbox` every change that Chroma has not seen. Only one
process at a time may have Chroma's folder open (several lose data without an error), so the first one holds a lock and
the others do without. A Chroma server (`chroma run`) is open to all; there only the one that brings it up to date
holds the lock. Knows no text and no embedder.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput, EngineUnavailable
from .beside import beside
from .chroma_files import blank_unused
from .store import Store
from .vector_rows import GROUPS, Ranking, group_of, read_vectors, unpack

BATCH = 5_000
"""Chroma takes at most 5,461 at once."""
PATIENCE = 2_000
"""A search lets Chroma catch up by at most so many changes; behind further, it does without."""
PURGE = "purge"
"""The library's note of the last change whose vectors may be in no file of Chroma any more."""
LOCK_SECONDS = 20.0
"""How long a writer waits for another process that brings the server up to date."""


class ChromaIndex:
    """The index of one library. Not thread-safe; `VectorIndex` takes care of that."""

    def __init__(self, store: Store, folder: Path, server: str | None = None) -> None:
        self._store = store
        self._folder = folder / "chroma"
        self._server = server
        self._applied_file = self._folder / ("applied-server" if server else "applied")
        self._purged_file = self._folder / "purged"
        self._held: Any = None
        self._collections: dict[str, Any] = {}
        self._client: Any = None

    def ask(self, query: NDArray[np.float32], counts: Mapping[str, int]) -> Future[dict[str, Ranking]] | None:
        """Begin to look for as many passages of the largest cosine as `counts` says for each group; see `answer`.

        None where Chroma cannot be had. Until the future is done nothing else may be called.
        """
        try:
            if self._open() and self._catch_up(PATIENCE):
                return beside(lambda: {group: self._ask(group, query, count) for group, count in counts.items()})
        except EngineUnavailable:  # the server does not answer; the one who writes is told
            pass
        except Exception:  # Chroma's errors are many and undocumented; whoever asks has another way.
            self._abandon()
        return None

    def answer(self, asked: Future[dict[str, Ranking]]) -> dict[str, Ranking] | None:
        """What was asked for; None where Chroma failed."""
        try:
            return asked.result()
        except Exception:
            self._abandon()
            return None

    def catch_up(self) -> None:
        """Tell Chroma of every change. Nothing happens where another process has its folder open.

        Raises `EngineUnavailable` where the server does not answer.
        """
        if self._open():
            self._catch_up(None)

    def purge(self) -> None:
        """Leave no deleted vector in any file: Chroma only marks them, so it starts afresh from SQLite.

        Where another process has its folder open, that one does so at its next use of it, or when it closes.
        """
        with self._store.write():
            self._store.set_meta(PURGE, str(self._last()))
        self.catch_up()

    def forget(self) -> None:
        """Take everything of this library off its server. Raises `EngineUnavailable` where that does not answer."""
        if self._server and self._open():
            for collection in self._collections.values():
                self._client.delete_collection(collection.name)
        self._disconnect()

    def ids(self) -> set[int]:
        """The passages that Chroma has."""
        found = (collection.get(include=[])["ids"] for collection in self._collections.values())
        return {int(name) for names in found for name in names}

    def close(self) -> None:
        """Close Chroma and let other processes have it. Idempotent."""
        if self._collections:
            with contextlib.suppress(Exception):
                self._heed_purge()
        self._disconnect()
        if self._held not in (None, False):
            self._held.release()
        self._held = False

    # -- opening -----------------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        """Whether Chroma is open in this process; tries once."""
        if self._collections:
            self._heed_purge()
            return bool(self._collections)
        if self._held is False or not self._store.writable:
            return False
        self._folder.mkdir(exist_ok=True)
        if self._server is None and self._held is None:
            self._held = self._hold()
            if self._held is False:
                return False
        try:
            self._connect()
        except BadInput:
            raise
        except Exception as error:
            if self._server:
                raise EngineUnavailable(
                    f"The Chroma server at {self._server} does not answer: {error}.", "Start it with `chroma run`."
                ) from error
            self._start_afresh()
        self._heed_purge()
        return bool(self._collections)

    def _heed_purge(self) -> None:
        """Start afresh if a process asked for it since this folder's files were begun."""
        wanted = self._store.meta(PURGE)
        if self._server is None and wanted is not None and self._read(self._purged_file) != int(wanted):
            self._start_afresh()
            self._write(self._purged_file, int(wanted))

    def _hold(self) -> Any:
        lock = self._lock(0)
        try:
            lock.acquire()
        except (TimeoutError, OSError):
            return False
        return lock

    def _lock(self, seconds: float) -> Any:
        import filelock

        # Another thread may close what this one opened: its own count of the lock would be 0 there.
        return filelock.FileLock(self._folder / "lock", timeout=seconds, thread_local=False)

    def _connect(self) -> None:
        self._client = self._client_of_server() if self._server else self._client_of_folder()
        collections = {
            group: self._client.get_or_create_collection(
                f"hanpaca-{self._store.meta('identity')}-{group}",
                embedding_function=None,
                configuration={"hnsw": {"space": "ip", "ef_search": 200, "ef_construction": 200}},
            )
            for group in GROUPS
        }
        held = sum(collection.count() for collection in collections.values())
        if self._applied() == self._last() and held != self._count():
            if not self._server:
                raise RuntimeError("Chroma and SQLite disagree")
            self._applied_file.unlink()  # another server, or one that lost its data: `catch_up` fills it
        self._collections = collections

    def _client_of_server(self) -> Any:
        import chromadb
        from chromadb.config import Settings

        try:
            parts = urlsplit(self._server or "")
            host, port, secure = parts.hostname, parts.port, parts.scheme == "https"
        except ValueError:
            host, port, secure = None, None, False
        if not host or parts.scheme not in ("http", "https"):
            raise BadInput(f"{self._server!r} is no address of a Chroma server.", "Write http://HOST:PORT.")
        return chromadb.HttpClient(host, port or 8000, ssl=secure, settings=Settings(anonymized_telemetry=False))

    def _client_of_folder(self) -> Any:
        import chromadb
        from chromadb.config import Settings

        return chromadb.PersistentClient(self._generation(), settings=Settings(anonymized_telemetry=False))

    def _generation(self) -> Path:
        """The folder in use: each new start has a new one, for a process may still have the old one open."""
        found = sorted(path for path in self._folder.iterdir() if path.is_dir() and path.name.isdigit())
        for old in found[:-1]:
            shutil.rmtree(old, ignore_errors=True)
        return found[-1] if found else self._folder / "0001"

    def _start_afresh(self) -> None:
        """Throw Chroma's files away and open empty ones; `catch_up` fills them from SQLite."""
        old = self._generation()
        self._disconnect()
        self._applied_file.unlink(missing_ok=True)
        (self._folder / f"{int(old.name) + 1:04}").mkdir()
        with contextlib.suppress(Exception):
            self._connect()
        shutil.rmtree(old, ignore_errors=True)

    def _disconnect(self) -> None:
        client, self._client, self._collections = self._client, None, {}
        if client is None:
            return
        with contextlib.suppress(Exception):
            client.close()
            if self._server:
                close_connections(client)

    def _abandon(self) -> None:
        """After an error: drop Chroma's files, so that the next opening builds new ones."""
        if self._server is None:
            with contextlib.suppress(OSError):
                self._start_afresh()
        else:
            self._disconnect()

    # -- what Chroma knows ---------------------------------------------------------------------------------------------

    def _ask(self, group: str, query: NDArray[np.float32], count: int) -> Ranking:
        found = self._collections[group].query(query_embeddings=query[None, :], n_results=count, include=["distances"])
        return [
            (int(name), 1.0 - float(distance))
            for name, distance in zip(found["ids"][0], found["distances"][0], strict=True)
        ]

    def _catch_up(self, patience: int | None) -> bool:
        """Whether Chroma knows everything; gives up where more than `patience` changes wait."""
        if self._applied() == self._last():
            return True
        with self._alone(patience is None) as alone:
            return alone and self._apply(patience)

    @contextlib.contextmanager
    def _alone(self, wait: bool) -> Iterator[bool]:
        """Whether no other process brings the same server up to date; a folder is this process's own already."""
        if self._server is None:
            yield True
            return
        lock = self._lock(LOCK_SECONDS if wait else 0)
        try:
            lock.acquire()
        except TimeoutError:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _apply(self, patience: int | None) -> bool:
        last, applied = self._last(), self._applied()
        if applied is None:
            return self._fill(last, patience)
        rows = self._store.rows(
            "SELECT passage, added FROM outbox WHERE number > ? AND number <= ? ORDER BY number", (applied, last)
        )
        if len(rows) != last - applied and applied < int(self._store.meta("pruned") or 0):
            return self._fill(last, patience)
        if patience is not None and len(rows) > patience:
            return False
        wanted = dict(rows)
        self._remove([passage for passage, added in wanted.items() if not added])
        self._add([passage for passage, added in wanted.items() if added])
        self._set_applied(last)
        return True

    def _fill(self, last: int, patience: int | None) -> bool:
        if patience is not None and self._count() > patience:
            return False
        for collection in self._collections.values():
            names = collection.get(include=[])["ids"]
            for at in range(0, len(names), BATCH):
                collection.delete(ids=names[at : at + BATCH])
        self._add([row[0] for row in self._store.rows("SELECT passage FROM vectors ORDER BY passage")])
        self._set_applied(last)
        return True

    def _add(self, passages: Sequence[int]) -> None:
        for at in range(0, len(passages), BATCH):
            with self._store.read() as reading:
                rows = read_vectors(reading, passages[at : at + BATCH])
            for group, collection in self._collections.items():
                ids, matrix = unpack([row for row in rows if group_of(row[2]) == group])
                if len(ids):
                    collection.upsert(ids=[str(number) for number in ids], embeddings=matrix)
        if self._server is None:
            for generation in self._folder.glob("[0-9]*"):
                blank_unused(generation)

    def _remove(self, passages: Sequence[int]) -> None:
        for at in range(0, len(passages), BATCH):
            for collection in self._collections.values():
                collection.delete(ids=[str(number) for number in passages[at : at + BATCH]])

    def _last(self) -> int:
        found = self._store.rows("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'")
        return int(found[0][0]) if found else 0

    def _count(self) -> int:
        return int(self._store.rows("SELECT count(*) FROM vectors")[0][0])

    def _applied(self) -> int | None:
        """The number of the last change that Chroma has; None where it was never filled."""
        return self._read(self._applied_file)

    def _set_applied(self, number: int) -> None:
        self._write(self._applied_file, number)

    @staticmethod
    def _read(file: Path) -> int | None:
        try:
            return int(file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    @staticmethod
    def _write(file: Path, number: int) -> None:
        new = file.with_suffix(".new")
        new.write_text(str(number))
        new.replace(file)


def close_connections(client: Any) -> None:
    """Close what chromadb's own `close` of a client of a server leaves open."""
    for part in (client, client._admin_client):
        part._server._session.close()
