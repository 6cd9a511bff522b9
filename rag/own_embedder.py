"""The embedder of one library: the one its vectors were made with, loaded at first use and never mixed with others.

Knows the store's notes (`embedder`, `embedder_name`) and no search.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..core.errors import HanpacaError, LibraryMismatch
from .connections import LIBRARY_HOME
from .embedding import BUNDLED, Embedder, load_embedder
from .store import Store

QUERIES_REMEMBERED = 64


class OwnEmbedder:
    """`given` is what the library was opened with: a name, an object, or None for what made its vectors."""

    def __init__(self, store: Store, folder: Path, given: str | Embedder | None) -> None:
        self._store, self._folder, self._given = store, folder, given
        self._embedder: Embedder | None = None
        self._queries: dict[str, NDArray[np.float32]] = {}
        self._lock = threading.RLock()

    @property
    def embedder(self) -> Embedder:
        """Loaded at first use. Raises `LibraryMismatch` if the vectors were made by another one."""
        LIBRARY_HOME.enter()
        with self._lock:
            if self._embedder is None:
                chosen = self._chosen
                loaded = self._load(chosen) if isinstance(chosen, str) else chosen
                self._check(loaded)
                self._embedder = loaded
            return self._embedder

    def check_name(self) -> None:
        """An embedder given by another name is loaded at once, to see whether it is another one."""
        remembered = self._store.meta("embedder_name")
        if self._given is not None and remembered is not None and self._given != remembered:
            self.embedder  # noqa: B018 - raises LibraryMismatch

    def remember(self) -> None:
        """Note in the library what its vectors are made with."""
        embedder = self.embedder
        if self._store.meta("embedder") != embedder.identity:
            with self._store.write():
                self._store.set_meta("embedder", embedder.identity)
                if isinstance(self._given, str) or self._given is None:
                    self._store.set_meta("embedder_name", self._given or BUNDLED)

    def replace(self, embedder: str | Embedder | None) -> None:
        """Drop every vector, for another embedder to make them anew; None keeps the one there is."""
        chosen = self._chosen if embedder is None else embedder
        loaded = load_embedder(chosen) if isinstance(chosen, str) else chosen
        with self._lock:
            self._given = self._given if embedder is None else embedder
            self._embedder = loaded
            self._queries.clear()
        with self._store.write() as writing:
            writing.execute("INSERT INTO outbox (passage, added) SELECT passage, 0 FROM vectors")
            writing.execute("DELETE FROM vectors")
            writing.execute("DELETE FROM meta WHERE key IN ('embedder', 'embedder_name', 'calibration')")
        self.remember()

    def query_vector(self, text: str) -> NDArray[np.float32]:
        """The vector of a question; the last few are remembered."""
        LIBRARY_HOME.enter()
        with self._lock:
            known = self._queries.get(text)
        if known is None:
            embedder = self.embedder
            known = np.asarray(embedder.embed_queries([text])[0], np.float32)
            with self._lock:
                if embedder is not self._embedder:  # replaced meanwhile
                    return known
                if len(self._queries) >= QUERIES_REMEMBERED:
                    self._queries.pop(next(iter(self._queries)))
                self._queries[text] = known
        return known

    @property
    def _chosen(self) -> str | Embedder:
        return self._given if self._given is not None else self._store.meta("embedder_name") or BUNDLED

    def _load(self, name: str) -> Embedder:
        """By name; where it cannot be had, what the library was made with is said too."""
        made_with = self._store.meta("embedder_name")
        try:
            return load_embedder(name)
        except HanpacaError as error:
            if made_with is None or (name == made_with == BUNDLED):
                raise
            use = f"compute all vectors anew: hanpaca reindex --library {self._folder} --embedder {BUNDLED}"
            raise LibraryMismatch(
                f"The library in {self._folder} was made with the embedding model {made_with}, and {name} cannot be "
                f"loaded. {error}",
                f"Leave --embedder out, or {use}." if name != made_with else f"Or {use}.",
            ) from error

    def _check(self, embedder: Embedder) -> None:
        made_with = self._store.meta("embedder")
        if made_with is not None and made_with != embedder.identity:
            raise LibraryMismatch(
                f"The library in {self._folder} was made with the embedder {made_with}, not {embedder.identity}.",
                "Open it with that one, or compute all vectors anew with `hanpaca reindex --embedder NAME`.",
            )
