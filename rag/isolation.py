"""Reads files in a separate process with a time and a memory limit, so that a bad file costs one error message.

The process is started once and reads file after file; after a crash or a timeout the next file starts a new one. It is
a plain subprocess, not `multiprocessing`: nothing of the caller's main module is imported again, and nothing that
comes back is unpickled. Knows no format; `reader_process` is the other end.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, Self

from ..core.children import command
from ..core.errors import BadInput, EmptyDocument, EngineFailure, EngineUnavailable, HanpacaError, UnreadableDocument
from .readers import Document, Mark

TIMEOUT = 120.0
"""Seconds without a sign of life after which a file is given up. Recognising a scanned page is a sign of life."""
_STARTING = 60.0
"""Seconds that the process itself may take to start; they are not the file's."""

_ERRORS: dict[str, type[HanpacaError]] = {
    kind.__name__: kind for kind in (UnreadableDocument, EmptyDocument, BadInput, EngineUnavailable)
}
HEADER = struct.Struct(">cQ")
"""Before each message of the reader process: what it is (J for JSON, T for text) and its length in bytes."""

_Message = tuple[bytes, bytes]


class ReaderStopped(UnreadableDocument):
    """The process crashed or was given up; another time, with more memory or less to do, it may read the file."""


class ReaderProcess:
    """A process that reads files. Thread-safe: one file at a time, callers wait in turn.

    >>> with ReaderProcess() as reader:                                # doctest: +SKIP
    ...     document = reader.read(Path("report.pdf"))
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def read(self, path: Path, *, encoding: str | None = None) -> Document:
        """As `readers.read`, with the same errors; after a crash or a timeout `ReaderStopped`."""
        with self._lock:
            if self._child is None or not self._child.is_alive():
                self._child = _Child()
            try:
                return self._child.read(path, encoding, self._timeout)
            except (UnreadableDocument, BadInput, EngineUnavailable):
                raise
            except BaseException:  # such as Ctrl+C: what the process would still send belongs to this file
                self._discard()
                raise

    def close(self) -> None:
        """End the process. A later `read` starts a new one."""
        with self._lock:
            self._discard()

    def _discard(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def read_isolated(path: Path, *, encoding: str | None = None) -> Document:
    """Read one file in this Python's shared reader process."""
    return _shared().read(path, encoding=encoding)


@cache
def _shared() -> ReaderProcess:
    return ReaderProcess()


class _Child:
    """One run of the process, and a thread that collects what it says."""

    def __init__(self) -> None:
        if not sys.executable:
            raise EngineUnavailable("Python does not know its own program file.", "Read the file without isolation.")
        self._process = subprocess.Popen(
            command("hanpaca.rag.reader_process", "serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl+C is for the caller, who then ends this process
        )
        self._messages: SimpleQueue[_Message | None] = SimpleQueue()
        self._started = False
        assert self._process.stdout is not None
        thread = threading.Thread(target=_collect, args=(self._process.stdout, self._messages), daemon=True)
        thread.start()
        self.stop: Callable[[], object] = weakref.finalize(self, _stop, self._process, thread)

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def read(self, path: Path, encoding: str | None, timeout: float) -> Document:
        request = json.dumps({"path": str(path.absolute()), "encoding": encoding}).encode() + b"\n"
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request)
            self._process.stdin.flush()
        except OSError as error:
            raise self._crashed(path) from error
        text = ""
        for kind, body in self._until_end(path, timeout):
            if kind == b"T":
                text += body.decode()  # grows in place; joining pieces would hold a long text twice
                continue
            told = json.loads(body)
            if "error" in told:
                raise _ERRORS.get(told["error"], UnreadableDocument)(told["problem"], told["hint"])
            if "document" in told:
                return _document(text, told["document"])
        raise EngineFailure("The reader process ended without an answer.")

    def _until_end(self, path: Path, timeout: float) -> Iterator[_Message]:
        while True:
            try:
                message = self._messages.get(timeout=timeout if self._started else max(timeout, _STARTING))
            except Empty:
                self.stop()
                raise ReaderStopped(
                    f"{path.name}: reading it took more than {timeout:.0f} seconds; it was given up.",
                    "Save it again with another program, or split it.",
                ) from None
            if message is None:
                raise self._crashed(path)
            self._started = True
            yield message

    def _crashed(self, path: Path) -> ReaderStopped:
        self.stop()
        return ReaderStopped(
            f"{path.name}: the reader crashed on it (exit status {self._process.returncode}).",
            "Save it again with another program, or leave it out.",
        )


def _document(text: str, told: dict[str, Any]) -> Document:
    marks = tuple(Mark(start, kind, label, level) for start, kind, label, level in told["marks"])
    return Document(text, marks, told["title"], told["kind"], told["encoding"], tuple(told["warnings"]))


def _collect(pipe: IO[bytes], messages: SimpleQueue[_Message | None]) -> None:
    """Pass on message after message; None when the process is gone."""
    with suppress(OSError, ValueError):
        while len(header := pipe.read(HEADER.size)) == HEADER.size:
            kind, length = HEADER.unpack(header)
            messages.put((kind, pipe.read(length)))
    messages.put(None)


def _stop(process: subprocess.Popen[bytes], thread: threading.Thread) -> None:
    process.kill()
    process.wait()
    thread.join()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
