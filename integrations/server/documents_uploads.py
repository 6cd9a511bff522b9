"""Documents that were uploaded to a library: kept under names of our own, read one at a time, watched while they are.

    LIBRARY/uploads/ID.pdf     the file as it came
    LIBRARY/uploads/ID.json    its name for people and, once it has failed, why

In the library such a document is called uploads/ID/NAME. A file is renamed into place when it is whole, so a crash
leaves either nothing or something that the next run reads. Knows no HTTP.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from ...core.errors import BadInput, HanpacaError, LibraryBusy
from ...rag import FileInfo, Library, Progress
from ...rag.drawing import Drawing, draw
from ...rag.isolation import read_isolated
from ...rag.readers import is_readable
from ...rag.uploads import FOLDER, UPLOAD_ID, clean_name, document_id, document_path
from .documents_status import Status, of_file
from .errors import NotHere

if TYPE_CHECKING:
    from .metrics import Metrics

log = logging.getLogger("hanpaca.server")
AROUND = 1500
"""Characters before and after a passage that are shown with it."""


class Shelf:
    """A library with its uploads. Thread-safe; one thread reads and embeds, in the order of arrival."""

    def __init__(self, library: Library, metrics: Metrics) -> None:
        self.library = library
        self._metrics = metrics
        self._folder = library.folder / FOLDER
        self._jobs: dict[str, Status] = {}
        self._lock = threading.Lock()
        self._waiting = 0
        self._changing = 0
        self._retired = False
        self._closing = False
        self._worker = ThreadPoolExecutor(1, "hanpaca-uploads")
        self._resume()

    # -- what there is -------------------------------------------------------------------------------------------

    def list(self) -> list[Status]:
        """Every document, by name."""
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
        for info in self.library.files():
            if document_id(info.path) == id:
                return self._of_file(info)
        raise NotHere("There is no document of this id in the library.", "GET /v1/documents lists them.")

    def working(self) -> dict[str, Status]:
        """The documents that are not done yet, by id."""
        with self._lock:
            return {id: job for id, job in self._jobs.items() if not job.over}

    def text(self, id: str, start: int, end: int) -> tuple[str, int, bool]:
        """The document's text around these offsets, where it begins, and whether more follows. Raises `NotHere`."""
        path = self._path(id)
        shown, first = "", 0
        for hit in sorted(self.library.passages(path), key=lambda hit: hit.start):
            if hit.start >= end + AROUND:
                return shown, first, True
            if hit.end <= start - AROUND:
                continue
            if not shown:
                first = hit.start
            known = first + len(shown)
            shown += "\n" * max(0, hit.start - known) + hit.text[max(0, known - hit.start) :]
        return shown, first, False

    def page(self, id: str, start: int, end: int, number: int | None) -> Drawing:
        """A PDF's page with the text between these offsets marked, its first page unless another is named."""
        path = self._path(id)
        kept = (self._folder / f"{id}.pdf") if UPLOAD_ID.fullmatch(id) else Path(path)
        if kept.suffix.lower() != ".pdf" or not kept.is_file():
            raise BadInput("This document has no pages that can be drawn.", "GET its /text instead.")
        if number is not None and start == end:
            return draw(kept, number)
        ordered = sorted(self.library.passages(path), key=lambda hit: hit.start)
        hits = [hit for hit in ordered if hit.start < end and hit.end > start]
        if not hits:
            raise BadInput("The document has no text at these offsets.", "Take those of a source or of search.")
        label = hits[0].page_at(max(start, hits[0].start))
        if number is None and not label:
            raise BadInput("This text stands on no page.", "Name one, or GET its /text instead.")
        shown, first, _ = self.text(id, start, end)
        return draw(kept, number or int(label or 1), shown[max(0, start - first) : end - first])

    def _path(self, id: str) -> str:
        path = next((info.path for info in self.library.files() if document_id(info.path) == id), None)
        if path is None:
            raise NotHere("There is no document of this id in the library.", "GET /v1/documents lists them.")
        return path

    # -- changes -------------------------------------------------------------------------------------------------

    def add(self, file: IO[bytes], name: str | None) -> Status:
        """Keep an uploaded file and queue it. Raises `BadInput` for a type that cannot be read."""
        with self._in_use():
            return self._add(file, name)

    def _add(self, file: IO[bytes], name: str | None) -> Status:
        shown = clean_name(name)
        if not is_readable(Path(shown)):
            raise BadInput(
                f"{shown[-60:]!r} is of a type that cannot be read.", "Text, Markdown, HTML, PDF, Office, EPUB … can."
            )
        id = secrets.token_hex(8)
        target = self._place(id, PurePosixPath(shown).suffix.lower())
        self._folder.mkdir(exist_ok=True)
        partial = target.with_name(f".{id}.part")
        try:
            with partial.open("wb") as out:
                shutil.copyfileobj(file, out, 2**20)
            size = partial.stat().st_size
            self._note(id, {"name": shown, "file": target.name, "size": size, "added": time.time()})
            partial.replace(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            self._place(id, ".json").unlink(missing_ok=True)
            raise
        return self._queue(id, shown, target, size)

    def delete(self, id: str) -> None:
        """Take a document out of the library, and remove the file that was uploaded. Raises `NotHere`."""
        status = self.status(id)
        with self._in_use(), self._foreground():
            with self._lock:
                self._jobs.pop(id, None)
            for info in self.library.files():
                if document_id(info.path) == id:
                    self.library.delete(info.path)
            if status.uploaded and UPLOAD_ID.fullmatch(id):
                for path in self._folder.glob(f"{id}.*"):
                    path.unlink(missing_ok=True)
        self._metrics.documents.labels("deleted").inc()

    def retire(self) -> None:
        """Take no more changes: the library is about to be deleted. Raises `LibraryBusy` while one is under way."""
        with self._lock:
            working = sum(not job.over for job in self._jobs.values())
            if working or self._changing:
                raise LibraryBusy(
                    f"Documents of the library are being read or changed ({working + self._changing}).",
                    "Wait until they are ready, or delete them first.",
                )
            self._retired = True

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
        self._worker.submit(self._work, id, name, path)
        return job

    def _work(self, id: str, name: str, path: Path) -> None:
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
            self._embed(id)
            if self._closing:
                return
            with self._lock:  # the library itself tells of it from now on
                self._jobs.pop(id, None)
            self._metrics.documents.labels("ready").inc()
        except Exception as error:
            self._fail(id, error)

    def _embed(self, id: str) -> None:
        """Compute what vectors are missing, making way for whoever wants to write meanwhile."""

        def tell(progress: Progress) -> None:
            if progress.stage == "embed":
                self._change(id, done=progress.done, total=progress.total, seconds_left=progress.seconds_left)

        while not self._closing:
            self.library.embed_pending(tell, lambda: self._closing or self._waiting > 0)
            if not self._waiting:
                stats = self.library.stats()
                if stats.embedded >= stats.passages:
                    return
            time.sleep(0.05)

    def _fail(self, id: str, error: Exception) -> None:
        if isinstance(error, HanpacaError):
            message = str(error)
        else:
            log.exception("an upload could not be read", exc_info=error)
            message = "The server failed on this document; its log says more."
        if self._change(id, status="failed", error=message):
            self._note(id, self._read_note(id) | {"error": message})
        self._metrics.documents.labels("failed").inc()

    def _change(self, id: str, **fields: Any) -> bool:
        """Update a job; False if its document was deleted meanwhile."""
        with self._lock:
            if id not in self._jobs:
                return False
            self._jobs[id] = replace(self._jobs[id], **fields)
            return True

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """A change is under way. Raises `NotHere` where the library was deleted since this shelf was taken."""
        with self._lock:
            if self._retired:
                raise NotHere("The library was deleted meanwhile.", "GET /v1/libraries lists them.")
            self._changing += 1
        try:
            yield
        finally:
            with self._lock:
                self._changing -= 1

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
                kept = self._folder / f"{status.id}{PurePosixPath(status.name).suffix.lower()}"
                return replace(status, size=kept.stat().st_size)
        return status

    def _place(self, id: str, suffix: str) -> Path:
        path = (self._folder / f"{id}{suffix}").resolve()
        if not path.is_relative_to(self._folder.resolve()):
            raise BadInput("The name of the upload leads out of the library.", "Give it another name.")
        return path

    def _note(self, id: str, note: dict[str, Any]) -> None:
        path = self._place(id, ".json")
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
        os.replace(partial, path)  # noqa: PTH105 - as Path.replace

    def _read_note(self, id: str) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            note = json.loads(self._place(id, ".json").read_text(encoding="utf-8"))
            if isinstance(note, dict):
                return note
        return {}

    def _resume(self) -> None:
        """Queue what an earlier run did not come to, and remember what failed then."""
        if not self._folder.is_dir():
            return
        known = {document_id(info.path): info for info in self.library.files()}
        for path in sorted(self._folder.glob("*.json")):
            id, note = path.stem, self._read_note(path.stem)
            file = self._folder / str(note.get("file", ""))
            if not UPLOAD_ID.fullmatch(id) or not file.is_file() or file.stem != id:
                continue
            name, size = clean_name(note.get("name")), int(note.get("size", 0))
            if "error" in note:
                self._jobs[id] = Status(id, name, "failed", error=str(note["error"]), size=size)
            elif id not in known or known[id].embedded < known[id].passages:
                self._queue(id, name, file, size)
