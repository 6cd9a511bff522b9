"""A library: one folder on disk with the passages of many documents, ready to be searched.

    library.sqlite3    the truth: files, passages, keyword index, vectors (see `store.py`)
    chroma/            ids and vectors for fast nearest-neighbour search; can be thrown away (see `vectors.py`)
    write.lock         held by the one process that may write; readers need no lock

Knows how the parts fit together; what each does lies in its own module. Knows no language model.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput, LibraryBusy
from . import contents, indexing, sync, traces
from .connections import LIBRARY_HOME
from .contents import FileInfo, Stats
from .embedding import Embedder
from .indexing import FileRecord
from .own_embedder import OwnEmbedder
from .paths import absolute
from .readers import Document
from .segmentation import check_segmenter
from .store import Store, explain
from .sync import OnProgress, Progress, SyncReport
from .terms import ANALYSIS
from .turns import Turns
from .vectors import VectorIndex

if TYPE_CHECKING:
    from .filters import Filters
    from .hits import Hit
    from .retrieval import Found

DATABASE = "library.sqlite3"
LOCK_SECONDS = 3.0
"""How long a writer waits for another one before it gives up with `LibraryBusy`."""


class Library:
    """Open one with `Library.open`. Thread-safe; also a context manager."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        embedder: str | Embedder | None,
        chroma: str | None = None,
        segmenter: str | None = None,
    ) -> None:
        self.folder = folder
        self.store = store
        self._settings = {"chroma": chroma, "segmenter": segmenter}
        self.vectors = VectorIndex(store, folder, self._setting("chroma"))
        self.segmenter = self._setting("segmenter")
        self._own = OwnEmbedder(store, folder, embedder)
        self.turns = Turns()
        self._writing = threading.RLock()

    @classmethod
    def open(
        cls,
        folder: Path | str,
        embedder: str | Embedder | None = None,
        create: bool = True,
        *,
        chroma: str | None = None,
        segmenter: str | None = None,
    ) -> Self:
        """Open the library in `folder`, or make one there. Processes forked from this one can open none.

        `embedder` is a name or an object; None takes the one that the library was made with, or the bundled one.
        `chroma` is the address of a Chroma server (`chroma run`) for the vectors; `segmenter` ("jieba") makes Chinese
        questions search for longer words besides pairs of characters. The library remembers both at the next change;
        None takes what it remembers, "" forgets it. Nothing heavy is loaded yet. Raises `BadInput` where there is no
        library and `create` is False, `LibraryMismatch` where the library was made with another embedder.
        """
        folder = Path(absolute(folder))
        database = folder / DATABASE
        if not database.exists():
            if not create:
                hint = f"Make one: hanpaca ingest FOLDER --library {folder}"
                raise BadInput(f"There is no library in {folder}.", hint)
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explain(error, database) from error
        library = cls(folder, Store(database, create), embedder, chroma, segmenter)
        try:
            library._own.check_name()
            if library.segmenter:
                check_segmenter(library.segmenter)
        except BaseException:
            library.close()
            raise
        return library

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded at first use. Raises `LibraryMismatch` if the vectors were made by another one."""
        return self._own.embedder

    def _setting(self, name: str) -> str | None:
        """What was given for it, else what the library remembers; None where it is neither, or forgotten."""
        given = self._settings[name]
        return (self.store.meta(name) if given is None else given) or None

    def _remember_settings(self) -> None:
        changed = {
            name: given
            for name, given in self._settings.items()
            if given is not None and given != (self.store.meta(name) or "")
        }
        if changed:
            with self.store.write():
                for name, given in changed.items():
                    self.store.set_meta(name, given)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the library for writing. Raises `LibraryBusy` if another process does."""
        import filelock

        LIBRARY_HOME.enter()
        lock = filelock.FileLock(self.folder / "write.lock", timeout=LOCK_SECONDS)
        with self._writing:
            try:
                lock.acquire()
            except filelock.Timeout as error:
                raise LibraryBusy(
                    f"Another process is writing to the library in {self.folder}.",
                    "Wait until it has finished and try again; searching works meanwhile.",
                ) from error
            except OSError as error:
                raise explain(error, self.store.path) from error
            try:
                self._remember_settings()
                if self.store.meta("analysis") != ANALYSIS:
                    indexing.reindex_keywords(self.store, ANALYSIS)
                traces.remove(self.store, self.vectors)
                yield
            finally:
                lock.release()

    def sync(
        self,
        paths: Sequence[Path | str],
        on_progress: OnProgress | None = None,
        *,
        embed: bool = True,
        encoding: str | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> SyncReport:
        """Bring the library in step with these files and everything below these folders.

        Files are added, changed, renamed and removed by their content; each is there for keyword search as soon as
        it is read. Then the vectors follow, unless `embed` is False (`embed_pending` makes them later).
        `encoding` overrides the rule for plain-text files and reads those again that were read by another. `stop` is
        asked between batches and ends the embedding early. Raises `BadInput` for a missing path and
        for a folder with nothing to read; files that cannot be read stand in the report.
        """
        start = time.monotonic()
        tell = on_progress or _ignore
        with self.writing():
            self._own.remember()
            report = sync.read_into(self.store, paths, self.embedder, tell, encoding)
            traces.remove(self.store, self.vectors)
            if embed:
                report.embedded = self._embed(tell, stop)
        report.seconds = time.monotonic() - start
        return report

    def embed_pending(self, on_progress: OnProgress | None = None, stop: Callable[[], bool] = lambda: False) -> int:
        """Compute the vectors that are still missing; how many were."""
        with self.writing():
            self._own.remember()
            return self._embed(on_progress or _ignore, stop)

    def _embed(self, tell: OnProgress, stop: Callable[[], bool]) -> int:
        from . import calibration

        count = sync.embed_into(self.store, self.embedder, tell, stop)
        self.vectors.catch_up()
        if not stop() and calibration.is_stale(self):
            calibration.calibrate(self, stop)
        return count

    def add_text(self, text: str, name: str, *, embed: bool = True) -> int:
        """Add a text, or replace the one of this name; the number of its passages."""
        return self.add_document(Document(text), name, embed=embed)

    def add_document(self, document: Document, name: str, *, embed: bool = True) -> int:
        """Add what `read` gave of something that is no file of the user's (an upload), under a name."""
        contents.check_text(document.text, name)
        with self.writing():
            self._own.remember()
            record = FileRecord(name, "text", len(document.text), time.time_ns())
            passages = indexing.put(self.store, record, document, self.embedder)
            traces.remove(self.store, self.vectors)
            if embed:
                self._embed(_ignore, lambda: False)
        return passages

    def delete(self, file: Path | str) -> int:
        """Remove a file from the library (not from the disk) so that no byte of it is left there.

        The number of its passages. Raises `BadInput` if the library has no such file. See `has_traces`.
        """
        return sum(self._delete(lambda: [self.resolve(file)]).values())

    def delete_all(self, names: Iterable[Path | str]) -> dict[str, int]:
        """`delete` for files and whole folders: path → passages. A wrong name among them leaves all as it was."""
        return self._delete(lambda: dict.fromkeys(path for name in names for path in contents.below(self.store, name)))

    def _delete(self, find: Callable[[], Iterable[str]]) -> dict[str, int]:
        with self.writing():
            paths = list(find())
            with self.store.write():
                traces.note(self.store, traces.BYTES)
            removed = {path: indexing.forget(self.store, path) for path in paths}
            traces.remove(self.store, self.vectors)
        return removed

    @property
    def has_traces(self) -> bool:
        """Whether bytes of deleted files are left: another process was reading. The next change removes them."""
        return traces.left(self.store)

    def resolve(self, file: Path | str) -> str:
        """The library's own path of a file given as the user knows it: whole, relative, or its last parts."""
        return contents.resolve(self.store, file)

    def files(self) -> list[FileInfo]:
        """Every file of the library, by path."""
        return contents.files(self.store)

    def stats(self) -> Stats:
        """The library in figures."""
        return contents.stats(self.store)

    def rebuild_vectors(self, on_progress: OnProgress | None = None, *, embedder: str | Embedder | None = None) -> int:
        """Compute every vector anew, with another embedder if one is given; how many."""
        with self.writing():
            self._own.replace(embedder)
            indexing.reindex_keywords(self.store, ANALYSIS)
            self.vectors.purge()
            return self._embed(on_progress or _ignore, lambda: False)

    def query_vector(self, text: str) -> NDArray[np.float32]:
        """The vector of a question; the last few are remembered."""
        return self._own.query_vector(text)

    def nearness(self, question: str) -> Callable[[Sequence[str]], list[float]] | None:
        """A way to tell how near texts are to a question, in standard deviations; None while there are no vectors.

        What it is asked again it remembers.
        """
        if not self.store.rows("SELECT 1 FROM vectors LIMIT 1"):
            return None

        known: dict[str, float] = {}

        def near(texts: Sequence[str]) -> list[float]:
            if new := [text for text in dict.fromkeys(texts) if text not in known]:
                cosines = self.embedder.embed_passages(new) @ self.query_vector(question)
                known.update(zip(new, (float(value) / self.vectors.spread() for value in cosines), strict=True))
            return [known[text] for text in texts]

        return near

    def search(
        self,
        query: str,
        k: int = 5,
        mode: str = "hybrid",
        filters: Filters | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Hit]:
        """The `k` passages that answer `query` best, best first; see `retrieval.find`."""
        return self.find(query, k, mode, filters, **options).hits

    def find(
        self,
        query: str,
        k: int = 5,
        mode: str = "hybrid",
        filters: Filters | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Found:
        """`search`, with whether the library seems to have an answer at all."""
        from . import retrieval

        return retrieval.find(self, query, k, mode, filters, **options)

    def passages(self, file: Path | str) -> list[Hit]:
        """All passages of one file, in their order."""
        from . import hits

        return hits.passages(self.store, self.resolve(file))

    def check(self, query: str, k: int = 1, mode: str = "hybrid") -> None:
        """Raise `BadInput` for what `search` would refuse."""
        from . import retrieval

        retrieval.check(self, query, k, mode)

    async def asearch(
        self,
        query: str,
        k: int = 5,
        mode: str = "hybrid",
        filters: Filters | Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[Hit]:
        """`search` in a thread of its own."""
        return await asyncio.to_thread(self.search, query, k, mode, filters, **options)

    def close(self) -> None:
        """Close the files, when what other threads are in the middle of has ended; what they ask next raises `Closed`.
        Idempotent."""
        if LIBRARY_HOME.is_elsewhere:
            return
        self.vectors.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Library({str(self.folder)!r})"


def _ignore(progress: Progress) -> None:
    """Nobody asked."""
