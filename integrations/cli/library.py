"""Commands that fill and show a library: `ingest`, `sources`, `delete`, `search`."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import BadInput
from .arguments import Parser, add_json, add_library
from .output import as_json, note, progress, quoted, say, short, size, table
from .places import library_folder

if TYPE_CHECKING:
    from ...rag import Library
    from ...rag.sync import SyncReport


def open_library(found: argparse.Namespace, *, create: bool = False, embedder: str | None = None) -> Library:
    """The library that `--library` names. Raises `BadInput` where there is none and `create` is False."""
    from ...rag import Library

    return Library.open(library_folder(found.library), embedder=embedder, create=create)


def ingest(argv: list[str]) -> int:
    """Read documents into a library; 2 where a named file, or everything, could not be read."""
    parser = Parser(
        "ingest", "Read documents and folders into a library. Run again at any time: only changes are read."
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE|FOLDER")
    add_library(parser)
    parser.add_argument("--embedder", metavar="NAME", help="embedding model of a new library; default: the bundled one")
    add_json(parser)
    found = parser.parse(argv)
    with open_library(found, create=True, embedder=found.embedder) as library:
        report = synced(library, found.paths)
    if found.json:
        as_json({"library": str(library.folder), **dataclasses.asdict(report)})
    else:
        show_report(report)
    return _code(report, found.paths)


def synced(library: Library, paths: list[Path]) -> SyncReport:
    """Bring the library in step with `paths`, with a bar on a terminal."""
    titles = {"read": "Reading", "embed": "Embedding"}
    with progress("Library") as show:
        return library.sync(
            paths, lambda step: show(step.done, step.total, f"{titles.get(step.stage, '')} {Path(step.name).name}")
        )


def show_report(report: SyncReport) -> None:
    """What a sync did: one line of figures, then what could not be read."""
    counts = {
        "added": len(report.added),
        "changed": len(report.changed),
        "renamed": len(report.renamed),
        "unchanged": len(report.unchanged),
        "removed": len(report.removed),
    }
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing"
    say(f"Files: {told}. Passages: {report.passages} read, {report.embedded} embedded. {report.seconds:.1f} s.")
    for path, message in report.warnings:
        note(f"warning: {short(path)}: {message}")
    for path, message in report.failed:
        note(f"not read: {short(path)}: {message}")


def _code(report: SyncReport, paths: list[Path]) -> int:
    named = {str(path.absolute()) for path in paths}
    nothing = not (report.added or report.changed or report.renamed or report.unchanged)
    failed = any(path in named for path, _ in report.failed) or (nothing and bool(report.failed))
    return BadInput.exit_code if failed else 0


def sources(argv: list[str]) -> int:
    """List the files of a library."""
    parser = Parser("sources", "The documents in a library.")
    add_library(parser)
    add_json(parser)
    found = parser.parse(argv)
    with open_library(found) as library:
        files, stats = library.files(), library.stats()
    if found.json:
        as_json({"library": str(library.folder), "files": list(map(_plain, files)), "stats": _plain(stats)})
        return 0
    if files:
        table(
            ["file", "kind", "passages", "size"],
            [[short(info.path), info.kind, str(info.passages), size(info.size)] for info in files],
        )
    passages = f"{stats.passages} passages ({stats.embedded} embedded)"
    say(f"{stats.files} files, {passages}, {size(stats.bytes_on_disk)} on disk")
    for path, message in stats.failures:
        note(f"not read: {short(path)}: {message}")
    return 0


def delete(argv: list[str]) -> int:
    """Remove documents from a library."""
    parser = Parser("delete", "Remove documents from a library. The files themselves stay where they are.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="as `hanpaca sources` shows it")
    add_library(parser)
    add_json(parser)
    found = parser.parse(argv)
    with open_library(found) as library:
        # All names are looked up before anything is deleted: a wrong one leaves the library as it was.
        paths = [library.resolve(file) for file in found.files]
        removed = {path: library.delete(path) for path in paths}
    if found.json:
        as_json({"removed": removed})
    else:
        for path, count in removed.items():
            say(f"{short(path)} is removed ({count} passages).")
    return 0


def search(argv: list[str]) -> int:
    """Show the passages that fit a question."""
    from ...rag.retrieval import MODES

    parser = Parser("search", "The passages that fit a question, without any language model.")
    parser.add_argument("question", nargs="+")
    add_library(parser)
    parser.add_argument("-k", type=int, default=5, metavar="N", help="how many passages; default: %(default)s")
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="default: %(default)s")
    add_json(parser)
    found = parser.parse(argv)
    with open_library(found) as library:
        hits = library.search(" ".join(found.question), k=found.k, mode=found.mode)
    if found.json:
        as_json({"hits": [_plain(hit) for hit in hits]})
        return 0
    for number, hit in enumerate(hits, 1):
        say(f"[{number}] {short(hit.file)}, {hit.place}  ({hit.score:.2f})")
        say(quoted(hit.text))
    if not hits:
        say("Nothing fits.")
    return 0


def _plain(value: Any) -> dict[str, Any]:
    return dataclasses.asdict(value)
