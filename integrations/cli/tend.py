"""Commands that tend a library: `eval`, `reindex`, `backup`, `restore`; and `summarize` for one of its documents."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from ...core.errors import BadInput
from .answers import show_citations, show_notes
from .arguments import Parser, add_json, add_library, add_model, add_sampling, sampling_of, some_path
from .ask import model_of
from .library import add_rerank, note_missing_vectors, open_library
from .output import as_json, note, progress, say, size, table
from .places import NO_MODEL, library_folder, no_model

if TYPE_CHECKING:
    from ...rag.evaluation import Evaluation


def evaluate(argv: list[str]) -> int:
    """Ask a file of questions and compare what search finds with what it should."""
    from ...rag import evaluation
    from ...rag.retrieval import MODES

    parser = Parser("eval", "Measure search on your own questions: recall, rank, refusals, time.")
    parser.add_argument(
        "questions",
        type=some_path,
        metavar="QUESTIONS.jsonl",
        help='lines such as {"question": "…", "file": "a.pdf", "answer": "…"}; "answerable": false if it has none',
    )
    add_library(parser)
    parser.add_argument("--mode", choices=MODES, default=MODES[0], help="default: %(default)s")
    add_rerank(parser)
    add_json(parser)
    found = parser.parse(argv)
    questions = evaluation.read_questions(found.questions)
    with open_library(found) as library, progress("Asking") as show:
        result = evaluation.evaluate(
            library, questions, found.mode, rerank=found.rerank, on_question=lambda done, total: show(done, total, "")
        )
        if found.mode != "keywords":
            note_missing_vectors(library)
    if found.json:
        as_json(result.as_dict())
    else:
        _show(result)
    return 0


def _show(result: Evaluation) -> None:
    rows = [[f"answer among the first {k}", f"{share:.1%}"] for k, share in result.recall.items()]
    named = {
        "mean reciprocal rank": result.mrr,
        "answerable questions refused": result.refused_answerable,
        "unanswerable questions refused": result.refused_unanswerable,
    }
    rows += [
        [name, f"{value:.1%}" if "refused" in name else f"{value:.3f}"]
        for name, value in named.items()
        if value is not None
    ]
    rows += [["seconds, median", f"{result.seconds_median:.3f}"], ["seconds, 95 of 100", f"{result.seconds_p95:.3f}"]]
    table([f"{result.questions} questions", ""], rows)
    for question in result.missed:
        note(f"not found: {question}")


def reindex(argv: list[str]) -> int:
    """Compute the vectors of a library anew."""
    parser = Parser("reindex", "Compute a library's vectors anew, with another embedding model if wanted.")
    add_library(parser)
    parser.add_argument("--embedder", metavar="NAME", help="default: the one the library was made with")
    add_json(parser)
    found = parser.parse(argv)
    with open_library(found) as library, progress("Embedding") as show:
        count = library.rebuild_vectors(lambda step: show(step.done, step.total, ""), embedder=found.embedder)
    if found.json:
        as_json({"library": str(library.folder), "embedded": count})
    else:
        say(f"{count} passages are embedded anew.")
    return 0


def backup(argv: list[str]) -> int:
    """Write a library to one file."""
    from ...rag.backup import backup as write_backup

    parser = Parser("backup", "Write a library to one file. It may be in use meanwhile.")
    parser.add_argument("target", type=some_path, metavar="FILE")
    add_library(parser)
    add_json(parser)
    found = parser.parse(argv)
    with open_library(found) as library:
        target = write_backup(library, found.target)
    if found.json:
        as_json({"file": str(target), "bytes": target.stat().st_size})
    else:
        say(f"The library is in {target} ({size(target.stat().st_size)}).")
    return 0


def restore(argv: list[str]) -> int:
    """Make a library from a backup."""
    from ...rag.backup import restore as read_backup

    parser = Parser("restore", "Make a library from a backup. An existing library is never overwritten.")
    parser.add_argument("source", type=some_path, metavar="FILE")
    add_library(parser)
    add_json(parser)
    found = parser.parse(argv)
    folder = library_folder(found.library)
    read_backup(found.source, folder)
    if found.json:
        as_json({"library": str(folder)})
    else:
        say(f"The library is restored to {folder}.")
    return 0


def summarize(argv: list[str]) -> int:
    """Summarize one document of a library."""
    from ...rag.summary import summarize as summary_of

    parser = Parser("summarize", "Summarize one document of a library.")
    parser.add_argument("file", help="as `hanpaca sources` shows it")
    add_library(parser)
    add_model(parser, extra=f"; `{NO_MODEL}` quotes its most telling sentences")
    parser.add_argument("--language", choices=["zh", "en"], help="default: the document's own")
    add_sampling(parser)
    add_json(parser)
    found = parser.parse(argv)
    if found.language is not None and no_model(found.model):
        raise BadInput("Quotations cannot be in another language.", "Leave --language out, or name a model.")
    with contextlib.ExitStack() as opened:
        library = opened.enter_context(open_library(found))
        model = model_of(found, opened)
        summary = summary_of(library, model, found.file, language=found.language, sampling=sampling_of(found))
    if found.json:
        as_json(dataclasses.asdict(summary))
        return 0
    say(summary.text)
    show_notes(summary.notes)
    show_citations(map(dataclasses.asdict, summary.citations))
    return 0
