"""One document into the store: passages, keyword index, and the vectors that are known already.

Each call is one transaction. Knows no file system and no Chroma.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from . import traces
from .embedding import Embedder
from .readers import Document
from .splitting import Passage, iter_passages
from .store import Store, placeholders
from .terms import language_of, terms
from .vector_rows import pack

CONTEXT_CHARACTERS, CONTEXT_TOKENS = 64, 72
"""How much of its headings is embedded with a passage, and the room that it leaves for them."""
SPECIAL_TOKENS = 8
"""What an embedder may add to a text: a prefix, a beginning, an end."""
EMBED_BATCH = 32
_TOGETHER = 512
"""Passages that are in memory at once."""


@dataclass(frozen=True)
class FileRecord:
    """What the store remembers of a file besides its text."""

    path: str
    origin: str
    """"file" for one on disk, "text" for one given as text."""
    size: int = 0
    modified: int = 0
    """Nanoseconds since 1970, as the file system says."""
    digest: bytes = b""


def put(store: Store, record: FileRecord, document: Document, embedder: Embedder) -> int:
    """Replace what the store has of this file, in one transaction; the number of its passages."""
    limit = max(embedder.max_tokens - CONTEXT_TOKENS, embedder.max_tokens // 2)

    def size(text: str) -> int:
        # A token is hardly ever less than a character, and counting takes longer than all the rest: short is short.
        most = len(text) + SPECIAL_TOKENS
        return most if most <= limit else embedder.count_tokens(text)

    passages = iter_passages(document, size, limit)
    position = end = 0
    with store.write() as writing:
        old = _vectors_of(writing, record.path)
        _forget(store, writing, record.path)
        file = writing.execute(
            "INSERT INTO files (path, origin, kind, title, encoding, size, modified, checked, digest, warnings)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (record.path, record.origin, document.kind, document.title, document.encoding, record.size,
             record.modified, time.time_ns(), record.digest, json.dumps(document.warnings, ensure_ascii=False)),
        ).lastrowid  # fmt: skip
        while some := list(itertools.islice(passages, _TOGETHER)):
            digests = [_digest(passage.text, context_of(passage.headings, document.title)) for passage in some]
            known = old | _known_vectors(writing, digests)
            for passage, digest in zip(some, digests, strict=True):
                gap, end = document.text[end : passage.start], passage.end
                number = _insert(writing, int(file or 0), position, gap, document, passage, digest)
                _index(writing, number, passage.text, keywords_context(record.path, document.title, passage.headings))
                if digest in known:
                    _add_vector(writing, number, known[digest])
                position += 1
        writing.execute("DELETE FROM failures WHERE path = ?", (record.path,))
    return position


def forget(store: Store, path: str) -> int:
    """Remove a file with all it brought, in one transaction; the number of its passages."""
    with store.write() as writing:
        writing.execute("DELETE FROM failures WHERE path = ?", (path,))
        return _forget(store, writing, path)


def rename(store: Store, old: str, new: FileRecord) -> None:
    """The same content under another path: nothing is read or embedded again."""
    with store.write() as writing:
        file, title = writing.execute("SELECT id, title FROM files WHERE path = ?", (old,)).fetchone()
        rows = writing.execute("SELECT id, text, headings FROM passages WHERE file = ?", (file,)).fetchall()
        for number, text, headings in rows:
            marks = json.loads(headings)
            _unindex(writing, number, text, keywords_context(old, title, marks))
            _index(writing, number, text, keywords_context(new.path, title, marks))
        writing.execute(
            "UPDATE files SET path = ?, size = ?, modified = ?, checked = ? WHERE id = ?",
            (new.path, new.size, new.modified, time.time_ns(), file),
        )


def embed_pending(
    store: Store, embedder: Embedder, on_batch: Callable[[int, int], None], stop: Callable[[], bool] = lambda: False
) -> int:
    """Embed every passage that has no vector, a batch to a transaction; how many there were.

    `on_batch(done, total)` hears of each batch. A passage whose text was seen before takes its vector from there.
    """
    pending = store.rows("SELECT id FROM passages WHERE id NOT IN (SELECT passage FROM vectors) ORDER BY id")
    numbers = [row[0] for row in pending]
    for at in range(0, len(numbers), EMBED_BATCH):
        if stop():
            return at
        part = numbers[at : at + EMBED_BATCH]
        _embed_some(store, embedder, part)
        on_batch(min(at + EMBED_BATCH, len(numbers)), len(numbers))
    return len(numbers)


def _embed_some(store: Store, embedder: Embedder, numbers: Sequence[int]) -> None:
    rows = store.rows(
        "SELECT p.id, p.text, p.headings, p.digest, f.title FROM passages p JOIN files f ON f.id = p.file"
        f" WHERE p.id IN ({placeholders(numbers)}) ORDER BY p.id",
        tuple(numbers),
    )
    new: dict[bytes, str] = {}
    for _, text, headings, digest, title in rows:
        new.setdefault(digest, _with_context(text, context_of(json.loads(headings), title)))
    vectors = dict(zip(new, map(pack, embedder.embed_passages(list(new.values()))), strict=True))
    with store.write() as writing:
        for number, *_, digest, _title in rows:
            _add_vector(writing, number, vectors[digest])


def reindex_keywords(store: Store, analysis: str) -> None:
    """Build the keyword index anew from the passages, for other rules of analysis."""
    with store.write() as writing:
        writing.execute("INSERT INTO keywords (keywords) VALUES ('delete-all')")
        rows = writing.execute(
            "SELECT p.id, p.text, p.headings, f.path, f.title FROM passages p JOIN files f ON f.id = p.file"
        ).fetchall()
        for number, text, headings, path, title in rows:
            _index(writing, number, text, keywords_context(path, title, json.loads(headings)))
        store.set_meta("analysis", analysis)


def context_of(headings: Iterable[str], title: str) -> str:
    """Where a passage stands, in words: what its own text may not say."""
    return (" > ".join(headings) or title)[-CONTEXT_CHARACTERS:]


def keywords_context(path: str, title: str, headings: Iterable[str]) -> str:
    """What besides the text keywords may match: file name, title, headings."""
    return " ".join((PurePath(path).stem, title, *headings))


def _with_context(text: str, context: str) -> str:
    return f"{context}\n{text}" if context else text


def _digest(text: str, context: str) -> bytes:
    """Of all that the embedder sees."""
    return hashlib.blake2b(_with_context(text, context).encode(), digest_size=16).digest()


def _insert(
    writing: sqlite3.Connection, file: int, position: int, gap: str, document: Document, passage: Passage, digest: bytes
) -> int:
    headings = json.dumps(passage.headings, ensure_ascii=False)
    pages = json.dumps(_pages_within(document, passage), ensure_ascii=False)
    cursor = writing.execute(
        "INSERT INTO passages (file, position, gap, text, start, end, page, pages, line, headings, language, digest)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (file, position, gap, passage.text, passage.start, passage.end, passage.page, pages, passage.line, headings,
         language_of(passage.text), digest),
    )  # fmt: skip
    return int(cursor.lastrowid or 0)


def _pages_within(document: Document, passage: Passage) -> list[tuple[int, str]]:
    """Where in the passage another page begins: a sentence is cited by its own page."""
    first = bisect.bisect_right(document.marks, passage.start, key=lambda mark: mark.start)
    last = bisect.bisect_left(document.marks, passage.end, key=lambda mark: mark.start)
    offsets = {mark.start for mark in document.marks[first:last]}
    pages = [(offset, document.page_at(offset) or "") for offset in sorted(offsets)]
    return [(offset, page) for offset, page in pages if page != (passage.page or "")]


def _index(writing: sqlite3.Connection, number: int, text: str, context: str) -> None:
    row = (number, " ".join(terms(text)), " ".join(terms(context)))
    writing.execute("INSERT INTO keywords (rowid, body, context) VALUES (?, ?, ?)", row)


def _unindex(writing: sqlite3.Connection, number: int, text: str, context: str) -> None:
    row = (number, " ".join(terms(text)), " ".join(terms(context)))
    writing.execute("INSERT INTO keywords (keywords, rowid, body, context) VALUES ('delete', ?, ?, ?)", row)


def _add_vector(writing: sqlite3.Connection, number: int, vector: bytes) -> None:
    writing.execute("INSERT OR REPLACE INTO vectors VALUES (?, ?)", (number, vector))
    writing.execute("INSERT INTO outbox (passage, added) VALUES (?, 1)", (number,))


def _forget(store: Store, writing: sqlite3.Connection, path: str) -> int:
    found = writing.execute("SELECT id, title FROM files WHERE path = ?", (path,)).fetchone()
    if found is None:
        return 0
    file, title = found
    rows = writing.execute("SELECT id, text, headings FROM passages WHERE file = ?", (file,)).fetchall()
    for number, text, headings in rows:
        _unindex(writing, number, text, keywords_context(path, title, json.loads(headings)))
        if writing.execute("DELETE FROM vectors WHERE passage = ?", (number,)).rowcount:
            writing.execute("INSERT INTO outbox (passage, added) VALUES (?, 0)", (number,))
    writing.execute("DELETE FROM passages WHERE file = ?", (file,))
    writing.execute("DELETE FROM files WHERE id = ?", (file,))
    traces.note(store, traces.WORDS)
    return len(rows)


def _known_vectors(reading: sqlite3.Connection, digests: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(
        reading.execute(
            "SELECT p.digest, v.vector FROM passages p JOIN vectors v ON v.passage = p.id"
            f" WHERE p.digest IN ({placeholders(digests)})",
            tuple(digests),
        ).fetchall()
    )


def _vectors_of(reading: sqlite3.Connection, path: str) -> dict[bytes, bytes]:
    return dict(
        reading.execute(
            "SELECT p.digest, v.vector FROM files f JOIN passages p ON p.file = f.id"
            " JOIN vectors v ON v.passage = p.id WHERE f.path = ?",
            (path,),
        ).fetchall()
    )
