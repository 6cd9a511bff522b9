"""Commands that fill a library: `ingest` reads documents once, `sync` keeps it in step with folders, also by watching.

Knows what a sync reports and how a person reads it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import BadInput, HanpacaError
from .arguments import Parser, add_json, add_library, some_path
from .library import open_library
from .output import about, as_json, note, progress, say

if TYPE_CHECKING:
    from ...rag import Library, Progress
    from ...rag.sync import SyncReport

_STAGES = {"read": "Reading", "embed": "Embedding"}


def ingest(argv: list[str]) -> int:
    """Read documents into a library; 2 where a named file, or everything, could not be read."""
    parser = _parser(
        "ingest", "Read documents and folders into a library. Run again at any time: only changes are read."
    )
    found = parser.parse(argv)
    with _opened(found) as library:
        return _once(library, found)


def sync(argv: list[str]) -> int:
    """Bring a library in step with folders, once or until Ctrl+C."""
    parser = _parser("sync", "Bring a library in step with folders: add, change, rename and remove what they do.")
    parser.add_argument("--watch", action="store_true", help="go on after every change in the folders, until Ctrl+C")
    found = parser.parse(argv)
    with _opened(found) as library:
        return _watch(library, found) if found.watch else _once(library, found)


def _parser(name: str, about: str) -> Parser:
    parser = Parser(name, about)
    parser.add_argument("paths", nargs="+", type=some_path, metavar="FILE|FOLDER")
    add_library(parser)
    parser.add_argument("--embedder", metavar="NAME", help="embedding model of a new library; default: the bundled one")
    parser.add_argument("--encoding", metavar="NAME", help="encoding of the plain-text files; default: found out")
    parser.add_argument(
        "--text-only", action="store_true", help="stop when the words are searchable; the next run adds the vectors"
    )
    add_json(parser)
    return parser


def _opened(found: argparse.Namespace) -> Library:
    """The library to fill; none is made for a path that is not there."""
    from ...rag.finding import check_paths

    check_paths(found.paths)
    return open_library(found, create=True, embedder=found.embedder)


def _options(found: argparse.Namespace) -> dict[str, Any]:
    return {"encoding": found.encoding, "embed": not found.text_only}


def _once(library: Library, found: argparse.Namespace) -> int:
    report = synced(library, found.paths, **_options(found))
    if found.json:
        as_json({"library": str(library.folder), **dataclasses.asdict(report)})
    else:
        show_report(report)
    return _code(report, found.paths)


def _watch(library: Library, found: argparse.Namespace) -> int:
    """Report every sync until Ctrl+C; with --json each is one line."""
    from ...rag.watching import watch

    def tell(outcome: SyncReport | HanpacaError) -> None:
        if isinstance(outcome, HanpacaError):
            note(f"hanpaca: {outcome}")
        elif found.json:
            as_json({"library": str(library.folder), **dataclasses.asdict(outcome)}, lines=False)
        else:
            show_report(outcome)

    note("Watching; Ctrl+C ends.")
    try:
        watch(library, found.paths, tell, **_options(found))
    except KeyboardInterrupt:
        note("No longer watching; the library is whole.")
    return 0


def synced(library: Library, paths: list[Path], **options: Any) -> SyncReport:
    """Bring the library in step with `paths`, with a bar on a terminal."""
    with progress("Library") as show:
        return library.sync(paths, _bar(show), **options)


def _bar(show: Callable[[int, int, str], None]) -> Callable[[Progress], None]:
    return lambda step: show(step.done, step.total, f"{_STAGES.get(step.stage, '')} {Path(step.name).name}")


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
        note(f"warning: {about(path, message)}")
    for path, message in report.failed:
        note(f"not read: {about(path, message)}")
    if report.skipped:
        kinds = Counter(Path(path).suffix.lower() or "without a type" for path in report.skipped)
        note(f"left out, for their types are not read: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}")


def _code(report: SyncReport, paths: list[Path]) -> int:
    from ...rag.paths import absolute

    named = set(map(absolute, paths))
    nothing = not (report.added or report.changed or report.renamed or report.unchanged)
    failed = any(path in named for path, _ in report.failed) or (nothing and bool(report.failed))
    return BadInput.exit_code if failed else 0
