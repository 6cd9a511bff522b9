"""Bring a library in step with files and folders: add, change, rename, delete, by content.

Every file is one transaction of its own, in a fixed order: killed at any point, the next run goes on from there and
ends in the same library. Unchanged files cost a `stat`. Text is searchable at once; vectors follow. Knows no search.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..core.encodings import decode
from ..core.errors import BadInput, EmptyDocument, EngineUnavailable, HanpacaError
from . import failures, indexing
from .embedding import Embedder
from .finding import find_files, message_of
from .indexing import FileRecord
from .isolation import ReaderStopped, read_isolated
from .paths import is_below, shown
from .readers import FORMATS, Document, read
from .reading import ocr
from .store import Store

RACY_SECONDS = 2
"""A file written so shortly before it was read may have changed again within the clock's grain: read it again."""
_TRIES = 3
_PLAIN = ("text:", "markdown:")
_BIG5 = ("big5", "cp950", "big5hkscs")  # a file that is read as the first may turn out to be any
_MOST = 2**63 - 1  # the largest integer that SQLite holds


@dataclass(frozen=True)
class Progress:
    """Where a sync stands; told to `on_progress`."""

    stage: str
    """"read" (files) or "embed" (passages)."""
    done: int
    total: int
    name: str = ""
    """The file at hand."""
    seconds_left: float | None = None
    """None while there is nothing to reckon from."""


OnProgress = Callable[[Progress], None]


@dataclass
class SyncReport:
    """What a sync did. Paths are absolute."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    """(old, new)."""
    unchanged: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    """(path, what is wrong with it). What the library had of such a file before, it keeps, but of one without text."""
    warnings: list[tuple[str, str]] = field(default_factory=list)
    """(path, what could not be read in it)."""
    skipped: list[str] = field(default_factory=list)
    """Files in the folders whose type is not read; hidden ones do not count."""
    passages: int = 0
    """Passages of the files added or changed."""
    embedded: int = 0
    """Passages whose vectors were computed."""
    seconds: float = 0.0


class _Known(NamedTuple):
    path: str
    size: int
    modified: int
    checked: int
    digest: bytes
    encoding: str | None
    warnings: str
    """A list of sentences in JSON."""


def read_into(
    store: Store, paths: Sequence[Path | str], embedder: Embedder, tell: OnProgress, encoding: str | None = None
) -> SyncReport:
    """The first half of a sync: files into passages and the keyword index."""
    if encoding is not None:
        decode(b"", encoding)  # a wrong name is one error, not one for each file
    looked = find_files(paths)
    found, closed = looked.files, looked.closed
    skipped = [path for path in looked.skipped if not is_below(path, store.path.parent)]  # its own files
    report = SyncReport(skipped=skipped, failed=closed, warnings=_unfollowed(looked.links, paths))
    known = _known_below(store, paths)
    if not found and not known and not closed:
        listing = ", ".join(str(path) for path in paths)
        raise BadInput(
            f"Nothing readable lies in {listing}.",
            "Give a folder with documents; hidden files and linked folders do not count.",
        )
    # What the library has of folders that are not looked into, it keeps.
    unseen = _inside([*(folder for folder, _ in closed), *looked.links])
    gone = {path: row for path, row in known.items() if path not in found and not unseen(path)}
    clock = _Clock("read", sum(stat.st_size for stat in found.values()), tell)
    for count, (path, stat) in enumerate(found.items()):
        clock.tell(count, len(found), path)
        _one(store, path, stat, known.get(path), gone, embedder, report, encoding)
        clock.advance(stat.st_size)
    for path in gone:
        indexing.forget(store, path)
        report.removed.append(path)
    failed, inside = dict(report.failed), _inside(paths)
    failures.forget(store, lambda path: inside(path) and path not in failed and not unseen(path))
    clock.tell(len(found), len(found), "")
    return report


def _one(
    store: Store,
    path: str,
    stat: os.stat_result,
    known: _Known | None,
    gone: dict[str, _Known],
    embedder: Embedder,
    report: SyncReport,
    encoding: str | None,
) -> None:
    if not _is_text(path):
        report.failed.append((shown(path), "Its name is not valid text. Rename it."))
        return
    misread = known is not None and not _is_well_read(known, encoding)
    if known is not None and not misread and _same(known, stat):
        report.unchanged.append(path)
        return
    if (old := failures.remembered(store, path, _state(stat), encoding)) is not None:
        report.failed.append((path, old))
        return
    try:
        record = _record(path)
        same = _moved_from(known, record, gone, encoding)
        if same is None and (known is None or misread or known.digest != record.digest):
            record, document = _read_still(record, encoding)
    except EngineUnavailable:
        raise
    except (HanpacaError, OSError) as error:
        message = message_of(error)
        if isinstance(error, EmptyDocument):
            indexing.forget(store, path)
        elif known is not None:
            message += " What was read of it before is kept."
        report.failed.append((path, message))
        if not isinstance(error, _Changing | OSError):
            failures.remember(store, path, _state(stat), encoding, message, not isinstance(error, ReaderStopped))
        return
    if known is not None and not misread and known.digest == record.digest:
        _touch(store, record)
        report.unchanged.append(path)
    elif same is not None:
        indexing.rename(store, same.path, record)
        del gone[same.path]
        report.renamed.append((same.path, path))
    else:
        report.passages += indexing.put(store, record, document, embedder)
        (report.added if known is None else report.changed).append(path)
        report.warnings += [(path, warning) for warning in document.warnings]


def _is_text(path: str) -> bool:
    """Whether a path can be remembered: a name in another encoding than the system's cannot."""
    return shown(path) == path


def _moved_from(
    known: _Known | None, record: FileRecord, gone: Mapping[str, _Known], encoding: str | None
) -> _Known | None:
    """The file that is not where it was any more, had this content and was read as this one would be."""
    if known is not None:
        return None
    same = (row for row in gone.values() if row.digest == record.digest and _is_well_read(row, encoding))
    return next((row for row in same if _reader(row.path) == _reader(record.path)), None)


def _reader(path: str) -> str:
    return FORMATS.get(Path(path).suffix.lower(), "")


def _is_well_read(row: _Known, encoding: str | None) -> bool:
    """Whether reading a file again would give the same."""
    unread = any(ocr.HINT in warning for warning in json.loads(row.warnings))
    return _is_read_by(row, encoding) and not (unread and ocr.is_available())


def _is_read_by(row: _Known, encoding: str | None) -> bool:
    """Whether a file was read by the encoding asked for, however it is spelled; many formats have no such choice."""
    if encoding is None or row.encoding is None:
        return True
    name = decode(b"", encoding).encoding
    return row.encoding in (_BIG5 if name == _BIG5[0] else (name,))


def _read_still(record: FileRecord, encoding: str | None) -> tuple[FileRecord, Document]:
    """A file as it was at one moment: read again if it changed meanwhile."""
    for _ in range(_TRIES):
        document = _read(Path(record.path), encoding)
        again = _record(record.path)
        if again.digest == record.digest:
            return record, document
        record = again
    raise _Changing(f"{record.path} changes while it is read.", "Run the command again when it is finished.")


def _read(path: Path, encoding: str | None) -> Document:
    """Plain text here; formats whose parsers may hang or crash in a process of their own."""
    if _reader(str(path)).startswith(_PLAIN):
        return read(path, encoding=encoding)
    return read_isolated(path, encoding=encoding)


class _Changing(BadInput):
    """A file does not keep still; the next sync tries it again."""


def _record(path: str) -> FileRecord:
    with open(path, "rb") as file:  # noqa: PTH123 - one open file for both, content and stat
        digest = hashlib.file_digest(file, "sha256").digest()
        stat = os.fstat(file.fileno())
    return FileRecord(path, "file", *_state(stat), digest)


def _state(stat: os.stat_result) -> failures.State:
    """Size and time of the last change, which may be centuries away, as SQLite can hold them."""
    return stat.st_size, max(-_MOST, min(stat.st_mtime_ns, _MOST))


def _same(known: _Known, stat: os.stat_result) -> bool:
    settled = known.modified < known.checked - RACY_SECONDS * 1_000_000_000
    return settled and (known.size, known.modified) == _state(stat)


def _known_below(store: Store, paths: Sequence[Path | str]) -> dict[str, _Known]:
    rows = store.rows(
        "SELECT path, size, modified, checked, digest, encoding, warnings FROM files"
        " WHERE origin = 'file' ORDER BY path"
    )
    inside = _inside(paths)
    return {row[0]: _Known(*row) for row in rows if inside(row[0])}


def _inside(paths: Sequence[Path | str]) -> Callable[[str], bool]:
    return lambda path: any(is_below(path, top) for top in paths)


def _touch(store: Store, record: FileRecord) -> None:
    with store.write() as writing:
        writing.execute(
            "UPDATE files SET size = ?, modified = ?, checked = ? WHERE path = ?",
            (record.size, record.modified, time.time_ns(), record.path),
        )


def _unfollowed(links: Sequence[str], paths: Sequence[Path | str]) -> list[tuple[str, str]]:
    there = _inside([os.path.realpath(path) for path in paths])  # read by its own path
    problem = "A link to a folder is not followed; name the link itself to read it."
    return [(shown(link), problem) for link in links if not there(os.path.realpath(link))]


class _Clock:
    """Tells progress with an estimate of the time that is left, by bytes."""

    def __init__(self, stage: str, total: int, tell: OnProgress) -> None:
        self._stage, self._total, self._tell = stage, total, tell
        self._done, self._start = 0, time.monotonic()

    def advance(self, amount: int) -> None:
        self._done += amount

    def tell(self, done: int, total: int, name: str) -> None:
        spent = time.monotonic() - self._start
        left = spent / self._done * (self._total - self._done) if self._done and spent > 0.5 else None
        self._tell(Progress(self._stage, done, total, name, left))


def embed_into(store: Store, embedder: Embedder, tell: OnProgress, stop: Callable[[], bool]) -> int:
    """The second half of a sync: vectors for the passages that have none; how many."""
    start = time.monotonic()

    def on_batch(done: int, total: int) -> None:
        left = (time.monotonic() - start) / done * (total - done)
        tell(Progress("embed", done, total, "", left))

    return indexing.embed_pending(store, embedder, on_batch, stop)
