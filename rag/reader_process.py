"""The process that `isolation` starts: takes paths from its standard input, gives documents on its standard output.

Knows no model and no library. It ends when its input ends, that is with its parent, however that ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

from ..core.errors import HanpacaError
from .isolation import HEADER
from .readers import Document, read
from .reading import ocr

MEMORY = 8 * 1024**3
"""Bytes of address space; what needs more fails as a file, not as a machine."""

_PIECE = 1 << 18  # characters per message


def serve() -> None:
    """Read files until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not print into the replies
    _limit_memory()
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    ocr.on_page.set(lambda: _send(replies, b"J", b"{}"))
    _send(replies, b"J", b"{}")  # ready: from here on, time is the file's
    while True:
        _answer(replies, json.loads(requests.get()))


def _listen(pipe: IO[bytes], requests: SimpleQueue[bytes]) -> None:
    """A thread of its own sees the end of input even while a file is being read."""
    for line in pipe:
        requests.put(line)
    os._exit(0)


def _limit_memory() -> None:
    with suppress(ImportError, ValueError, OSError):  # Windows has no resource; the limit may be lower already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _answer(replies: IO[bytes], request: dict[str, Any]) -> None:
    path = Path(request["path"])
    try:
        document = read(path, encoding=request["encoding"])
    except HanpacaError as error:
        _tell(replies, {"error": type(error).__name__, "problem": error.problem, "hint": error.hint})
    except MemoryError:
        _tell_unexpected(replies, f"{path.name} needs more memory than a document may.", "Split it.")
    except Exception as error:  # this process is the wall behind which any failure of a parser is one bad file
        what = f"{path.name} cannot be read: {type(error).__name__}: {error}."
        _tell_unexpected(replies, what[:500], "Save it again with another program, or leave it out.")
    else:
        pieces, rest = _taken_apart(document)
        del document  # a long text is not to be in memory here and in the parent
        for piece in pieces:
            _send(replies, b"T", piece)
        _tell(replies, {"document": rest})


def _taken_apart(document: Document) -> tuple[list[bytes], dict[str, Any]]:
    """The text in UTF-8, and what else there is to tell."""
    text = document.text
    starts = range(0, len(text), _PIECE)
    pieces = [text[start : start + _PIECE].encode("utf-8", "replace") for start in starts]
    marks = [[mark.start, mark.kind, mark.label, mark.level] for mark in document.marks]
    rest = {
        "marks": marks,
        "title": document.title,
        "kind": document.kind,
        "encoding": document.encoding,
        "warnings": document.warnings,
    }
    return pieces, rest


def _tell_unexpected(replies: IO[bytes], problem: str, hint: str) -> None:
    _tell(replies, {"error": "UnreadableDocument", "problem": problem, "hint": hint})


def _tell(replies: IO[bytes], what: dict[str, Any]) -> None:
    _send(replies, b"J", json.dumps(what).encode())


def _send(replies: IO[bytes], kind: bytes, body: bytes) -> None:
    replies.write(HEADER.pack(kind, len(body)) + body)
    replies.flush()
