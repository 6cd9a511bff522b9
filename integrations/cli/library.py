"""Commands that show a library and take from it: `sources`, `delete`, `search`."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from ...core.errors import BadInput
from .arguments import Parser, add_json, add_library, passage_count
from .output import about, as_json, note, quoted, say, short, size, table
from .places import library_folder

if TYPE_CHECKING:
    from ...rag import Hit, Library


def open_library(found: argparse.Namespace, *, create: bool = False, embedder: str | None = None) -> Library:
    """The library that `--library` names. Raises `BadInput` where there is none and `create` is False."""
    from ...rag import Library

    return Library.open(library_folder(found.library), embedder=embedder, create=create)


def note_missing_vectors(library: Library) -> None:
    """Say how many passages a search by meaning does not see yet."""
    from ...rag.contents import counts

    passages, vectors = counts(library.store)
    if pending := passages - vectors:
        note(f"({pending} of {passages} passages have no vectors yet; the next `hanpaca ingest` makes them.)")


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
            ["file", "kind", "encoding", "passages", "size"],
            [[short(info.path), info.kind, info.encoding or "", str(info.passages), size(info.size)] for info in files],
        )
    passages = f"{stats.passages} passages ({stats.embedded} embedded)"
    say(f"{stats.files} files, {passages}, {size(stats.bytes_on_disk)} on disk")
    for path, message in stats.failures:
        note(f"not read: {about(path, message)}")
    return 0


def delete(argv: list[str]) -> int:
    """Remove documents from a library."""
    parser = Parser("delete", "Remove documents from a library. The files themselves stay where they are.")
    parser.add_argument("files", nargs="*", metavar="FILE|FOLDER", help="as `hanpaca sources` shows it")
    parser.add_argument("--whole-library", action="store_true", help="delete the library itself, uploads included")
    add_library(parser)
    add_json(parser)
    found = parser.parse(argv)
    if found.whole_library == bool(found.files):
        raise BadInput("Name the documents to remove, or --whole-library, not both.", "See: hanpaca delete --help.")
    if found.whole_library:
        return _delete_library(found)
    with open_library(found) as library:
        removed = library.delete_all(found.files)
        traces = library.has_traces
    if found.json:
        as_json({"removed": removed, "traces": traces})
    else:
        for path, count in removed.items():
            say(f"{short(path)} is removed ({count} passages).")
    if traces:
        note("Another process is reading the library: its files hold what was removed until the next change.")
    return 0


def _delete_library(found: argparse.Namespace) -> int:
    from ...rag.removal import remove_library

    folder = library_folder(found.library)
    remove_library(folder)
    if found.json:
        as_json({"deleted": str(folder)})
    else:
        say(f"The library in {folder} is deleted.")
    return 0


def search(argv: list[str]) -> int:
    """Show the passages that fit a question."""
    from ...rag.retrieval import MODES

    parser = Parser("search", "The passages that fit a question, without any language model.")
    parser.add_argument("question", nargs="+")
    add_library(parser)
    parser.add_argument(
        "-k", type=passage_count, default=5, metavar="N", help="how many passages; default: %(default)s"
    )
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="default: %(default)s")
    add_filters(parser)
    parser.add_argument(
        "--neighbours", type=passage_count, default=0, metavar="N", help="show N passages before and after each one too"
    )
    add_rerank(parser)
    parser.add_argument("--explain", action="store_true", help="say why each passage came")
    add_json(parser)
    found = parser.parse(argv)
    with open_library(found) as library:
        hits = library.search(
            " ".join(found.question),
            found.k,
            found.mode,
            filters_of(found),
            neighbours=found.neighbours,
            rerank=found.rerank,
        )
        if found.mode != "keywords":
            note_missing_vectors(library)
    if found.json:
        as_json({"hits": [_plain(hit) for hit in hits]})
        return 0
    for number, hit in enumerate(hits, 1):
        say(f"[{number}] {short(hit.file)}, {hit.place}  ({hit.score:.2f})")
        if found.explain:
            say(f"      {_reasons(hit)}")
        say(quoted(hit.text))
    if not hits:
        say("Nothing fits.")
    return 0


def add_filters(parser: Parser) -> None:
    """`--file`, `--folder`, `--type`, `--after`, `--before`: which documents to look in."""
    again = "; may be given again"
    parser.add_argument("--file", action="append", metavar="NAME", help=f"only in this file, * and ? allowed{again}")
    parser.add_argument("--folder", action="append", metavar="PATH", help=f"only below this folder{again}")
    parser.add_argument("--type", action="append", metavar="TYPE", help=f"only in files such as pdf or docx{again}")
    parser.add_argument("--after", metavar="DATE", help="only in files changed on this day (2026-01-31) or later")
    parser.add_argument("--before", metavar="DATE", help="only in files changed earlier than this day")


def filters_of(found: argparse.Namespace) -> dict[str, Any]:
    """The filters that were given, by the names of `Filters`."""
    named = {
        "files": found.file,
        "folders": found.folder,
        "kinds": found.type,
        "after": found.after,
        "before": found.before,
    }
    return {name: value for name, value in named.items() if value is not None}


def add_rerank(parser: Parser) -> None:
    """`--rerank`: a cross-encoder that orders the passages anew."""
    parser.add_argument(
        "--rerank", metavar="NAME|FOLDER", help="a sentence-transformers cross-encoder that orders the passages anew"
    )


def _reasons(hit: Hit) -> str:
    """One line: what speaks for a passage."""
    why = hit.explain
    parts = [f"terms {' '.join(why['terms']) or '-'} ({why['keywords']:.2f})"]
    if why["cosine"] is not None:
        parts.append(f"cosine {why['cosine']:.3f}")
    if "rerank" in why:
        parts.append(f"reranker {why['rerank']:.3f}")
    if why["other_language"]:
        parts.append("another language than the question's")
    parts += [f"the same text in {short(same['file'])}, line {same['line']}" for same in why["same_text"]]
    return "; ".join(parts)


def _plain(value: Any) -> dict[str, Any]:
    return dataclasses.asdict(value)
