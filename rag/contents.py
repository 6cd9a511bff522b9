"""What a library holds: its files one by one, and all of it in figures. Reads the store and changes nothing."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import BadInput
from .paths import absolute, ends_with, is_below, printable, shown
from .store import Store


@dataclass(frozen=True)
class FileInfo:
    """One file of a library."""

    path: str
    origin: str
    """"file" for one on disk, "text" for one given as text."""
    kind: str
    """text, markdown, html, pdf, docx, …"""
    title: str
    encoding: str | None
    size: int
    """Bytes on disk; characters for a text."""
    modified: float
    """Seconds since 1970."""
    passages: int
    embedded: int
    """How many of the passages have vectors."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stats:
    """A library in figures."""

    files: int
    passages: int
    embedded: int
    characters: int
    bytes_on_disk: int
    embedder: str | None
    """The identity of the embedder that made the vectors; None while there are none."""
    languages: dict[str, int]
    """Passages by language: "zh", "en" (any alphabet), "" (neither)."""
    failures: tuple[tuple[str, str], ...]
    """Files that could not be read, and why."""


def files(store: Store) -> list[FileInfo]:
    """Every file of the library, by path."""
    rows = store.rows(
        "SELECT f.path, f.origin, f.kind, f.title, f.encoding, f.size, f.modified, count(p.id), count(v.passage),"
        " f.warnings FROM files f LEFT JOIN passages p ON p.file = f.id LEFT JOIN vectors v ON v.passage = p.id"
        " GROUP BY f.id ORDER BY f.path"
    )
    found = []
    for path, origin, kind, title, encoding, size, modified, passages, embedded, warnings in rows:
        problems = tuple(json.loads(warnings))
        found.append(FileInfo(path, origin, kind, title, encoding, size, modified / 1e9, passages, embedded, problems))
    return found


def stats(store: Store) -> Stats:
    """The library in figures."""
    with store.read() as reading:
        count_files = reading.execute("SELECT count(*) FROM files").fetchone()[0]
        passages, characters = reading.execute(
            "SELECT count(*), coalesce(sum(length(text)), 0) FROM passages"
        ).fetchone()
        embedded = reading.execute("SELECT count(*) FROM vectors").fetchone()[0]
        languages = dict(reading.execute("SELECT language, count(*) FROM passages GROUP BY language").fetchall())
        failures = reading.execute("SELECT path, message FROM failures ORDER BY path").fetchall()
        made_with = store.meta("embedder") if embedded else None
    on_disk = _bytes_below(store.path.parent)
    return Stats(count_files, passages, embedded, characters, on_disk, made_with, languages, tuple(failures))


def _bytes_below(folder: Path) -> int:
    """The size of the files of a folder; what another thread deletes meanwhile is not counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def counts(store: Store) -> tuple[int, int]:
    """(passages, vectors), without reading any."""
    passages, vectors = store.rows("SELECT (SELECT count(*) FROM passages), (SELECT count(*) FROM vectors)")[0]
    return int(passages), int(vectors)


def check_text(text: Any, name: Any) -> None:
    """Raise `BadInput` for what cannot be kept as a text of this name."""
    for what, value in (("text", text), ("name", name)):
        if not isinstance(value, str):
            raise BadInput(f"The {what} of a document is a str, not {type(value).__name__}.", "Give a str.")
        if shown(value) != value:
            raise BadInput(f"The {what} holds half a character (a lone surrogate).", "Remove it.")
    if not name.strip():
        raise BadInput("The name of a document is empty.", "Give one.")
    if not text.strip():
        raise BadInput(f"The text {name!r} is empty.", "Give one with words in it.")


def below(store: Store, name: Path | str) -> list[str]:
    """The library's own paths of the files that a name means: one, as `resolve`, or all below a folder; those too that
    could not be read."""
    if not str(name).strip():  # that would be the folder one is in
        raise BadInput("The name of a document is empty.", "`hanpaca sources` lists what the library has.")
    top = absolute(str(name))
    paths = [row[0] for row in store.rows("SELECT path FROM files UNION SELECT path FROM failures ORDER BY path")]
    return [path for path in paths if path != top and is_below(path, top)] or [_meant(paths, str(name))]


def resolve(store: Store, file: Path | str) -> str:
    """The library's own path of a file given as the user knows it: whole, relative, its last parts, or as it is
    printed."""
    return _meant([row[0] for row in store.rows("SELECT path FROM files ORDER BY path")], str(file))


def _meant(paths: Sequence[str], wanted: str) -> str:
    for candidate in (wanted, absolute(wanted)):
        if candidate in paths:
            return candidate
    ends = [path for path in paths if ends_with(path, wanted)]
    ends = ends or [path for path in paths if ends_with(printable(path), wanted)]
    if len(ends) == 1:
        return str(ends[0])
    if ends:
        raise BadInput(f"{wanted} could be any of {', '.join(ends)}.", "Give the whole path.")
    raise BadInput(f"The library has no file {wanted}.", "`hanpaca sources` lists what it has.")
