"""Documents that were uploaded to a library: read one at a time, watched while they are. Knows no HTTP.

Their files are `documents_files.py`'s. In the library such a document is called uploads/ID/NAME.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ...core.errors import HanpacaError
from ...rag import FileInfo, Library, Progress
from ...rag.contents import Stats
from ...rag.drawing import Drawing
from ...rag.isolation import read_isolated
from ...rag.retrieval import Found
from ...rag.uploads import FOLDER, UPLOAD_ID, clean_name, document_id, document_path
from . import documents_views
from .documents_files import KeptFiles, shown_name
from .documents_gate import Gate
from .documents_status import Status, of_file
from .errors import NotHere

if TYPE_CHECKING:
    from .metrics import Metrics

log = logging.getLogger("hanpaca.server")


class Shelf:
    """A library with its uploads. Thread-safe; one thread reads and embeds, in the order of arrival."""

    def __init__(self, library: Library, metrics: Metrics) -> None:
        self.library = library
        self._metrics = metrics
        self._kept = KeptFiles(library.folder / FOLDER)
        self._jobs: dict[str, Status] = {}
        self._lock = threading.Lock()
        self._waiting = 0
        self._unread = 0
        self.gate = Gate()
        self._closing = False
        self._worker = ThreadPoolExecutor(1, "hanpaca-uploads")
        self._resume()

    # -- what there is -------------------------------------------------------------------------------------------

    def list(self) -> list[Status]:
        """Every document, by name."""
        with self.gate.reading():
            found = {status.id: status for status in map(self._of_file, self.library.files())}
        with self._lock:
            found |= self._jobs
        return sorted(found.values(), key=lambda status: (status.name, status.id))

    def status(self, id: str) -> Status:
        """Where one document stands. Raises `NotHere`."""
        with self._lock:
            job = self._jobs.get(id)
        if job is not None:
            return job
        with self.gate.reading():
            for info in self.library.files():
                if document_id(info.path) == id:
                    return self._of_file(info)
        raise NotHere("There is no document of this id in the library.", "GET /v1/documents lists them.")

    def working(self) -> dict[str, Status]:
        """The documents that are not done yet, by id."""
        with self._lock:
            return {id: job for id, job in self._jobs.items() if not job.over}

    def find(self, query: str, k: int, **options: Any) -> Found:
        """See `Library.find`."""
        with self.gate.reading():
            return self.library.find(query, k, **options)

    def text(self, id: str, start: int, end: int) -> tuple[str, int, bool]:
        """See `documents_views.text`."""
        with self.gate.reading():
            return documents_views.text(self.library, id, start, end)

    def page(self, id: str, start: int, end: int, number: int | None) -> Drawing:
        """See `documents_views.page`."""
        with self.gate.reading():
            return documents_views.page(self.library, id, start, end, number)

    def figures(self) -> Stats:
        """See `Library.stats`."""
        with self.gate.reading():
            return self.library.stats()

    # -- changes -------------------------------------------------------------------------------------------------

    def add(self, file: IO[bytes], name: str | None) -> Status:
        """Keep an uploaded file and queue it. Raises `BadInput` for a type that cannot be read."""
        with self.gate.changing():
            return self._add(file, name)

    def _add(self, file: IO[bytes], name: str | None) -> Status:
        shown = shown_name(name)
        id = secrets.token_hex(8)
        target, size = self._kept.add(id, shown, file)
        return self._queue(id, shown, target, size)

    def delete(self, id: str) -> None:
        """Take a document out of the library, and remove the file that was uploaded. Raises `NotHere`."""
        status = self.status(id)
        with self.gate.changing(), self._foreground():
            with self._lock:
                self._jobs.pop(id, None)
            for info in self.library.files():
                if document_id(info.path) == id:
                    self.library.delete(info.path)
            if status.uploaded and UPLOAD_ID.fullmatch(id):
                self._kept.remove(id)
        self._metrics.documents.labels("deleted").inc()

    def retire(self) -> None:
        """Let nobody in any more: the library is about to be deleted. Raises `LibraryBusy`; see `Gate.retire`."""
        with self._lock:
            working = sum(not job.over for job in self._jobs.values())
        self.gate.retire(working)

    def close(self) -> None:
        """Stop reading; what waits is read by the next run."""
        self._closing = True
        self._worker.shutdown(wait=True, cancel_futures=True)
        self.library.close()

    # -- the worker ----------------------------------------------------------------------------------------------

    def _queue(self, id: str, name: str, path: Path, size: int) -> Status:
        job = Status(id, name, "queued", size=size, modified=time.time())
        with self._lock:
            self._jobs[id] = job
            self._unread += 1
        self._worker.submit(self._attempt, self._read, id, name, path)
        return job

    def _attempt(self, work: Callable[..., None], id: str, name: str, path: Path) -> None:
        try:
            work(id, name, path)
        except Exception as error:
            self._fail(id, error, path, name)

    def _read(self, id: str, name: str, path: Path) -> None:
        """Make a document searchable by its words; its vectors come when every document has been read."""
        try:
            if not self._change(id, status="reading"):
                return
            document = read_isolated(path)
            if id not in self._jobs or self._closing:
                return
            path_there = document_path(id, name)
            passages = self.library.add_document(document, path_there, embed=False)
            if not self._change(id, status="embedding", passages=passages, total=passages):
                self.library.delete(path_there)  # it was deleted while it was read
                return
        finally:
            with self._lock:
                self._unread -= 1
        self._later(id, name, path)

    def _later(self, id: str, name: str, path: Path) -> None:
        if self._closing:
            return  # the next run goes on
        with suppress(RuntimeError):  # it began to close just now
            self._worker.submit(self._attempt, self._embed, id, name, path)

    def _embed(self, id: str, name: str, path: Path) -> None:
        """Compute what vectors are missing, making way for whoever wants to write, and for documents to be read."""

        def tell(progress: Progress) -> None:
            if progress.stage == "embed":
                self._tell(progress)

        while not self._closing and not self._unread:
            self.library.embed_pending(tell, lambda: self._closing or self._waiting > 0 or self._unread > 0)
            if not self._waiting:
                stats = self.library.stats()
                if stats.embedded >= stats.passages:
                    self._ready(id)
                    return
            time.sleep(0.05)
        self._later(id, name, path)

    def _tell(self, progress: Progress) -> None:
        """Every document that waits for vectors shows how far they all are."""
        far: dict[str, Any] = {"done": progress.done, "total": progress.total, "seconds_left": progress.seconds_left}
        with self._lock:
            for id, job in self._jobs.items():
                if job.status == "embedding":
                    self._jobs[id] = replace(job, **far)

    def _ready(self, id: str) -> None:
        with self._lock:  # the library itself tells of it from now on
            known = self._jobs.pop(id, None)
        if known is not None:
            self._metrics.documents.labels("ready").inc()

    def _fail(self, id: str, error: Exception, path: Path, name: str) -> None:
        if isinstance(error, HanpacaError):
            message = str(error).replace(path.name, name)  # a reader knows the file by where it lies
        else:
            log.exception("an upload could not be read", exc_info=error)
            message = "The server failed on this document; its log says more."
        if self._change(id, status="failed", error=message):
            self._kept.note(id, error=message)
        self._metrics.documents.labels("failed").inc()

    def _change(self, id: str, **fields: Any) -> bool:
        """Update a job; False if its document was deleted meanwhile."""
        with self._lock:
            if id not in self._jobs:
                return False
            self._jobs[id] = replace(self._jobs[id], **fields)
            return True

    @contextmanager
    def _foreground(self) -> Iterator[None]:
        """Let the worker make way."""
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1

    # -- on disk -------------------------------------------------------------------------------------------------

    def _of_file(self, info: FileInfo) -> Status:
        """Where a document of the library stands; the library knows an upload by its text, the disk by its bytes."""
        status = of_file(info)
        if status.uploaded:
            with suppress(OSError):
                return replace(status, size=self._kept.place(status.id, status.name).stat().st_size)
        return status

    def _resume(self) -> None:
        """Queue what an earlier run did not come to, and remember what failed then."""
        known = {document_id(info.path): info for info in self.library.files()}
        for id, file, note in self._kept.all():
            name, size = clean_name(note.get("name")), int(note.get("size", 0))
            if "error" in note:
                self._jobs[id] = Status(id, name, "failed", error=str(note["error"]), size=size)
            elif id not in known or known[id].embedded < known[id].passages:
                self._queue(id, name, file, size)
