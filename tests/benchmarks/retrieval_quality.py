"""How often search finds the passage that answers: R@5 and R@1 on questions with known answers.

    python tests/benchmarks/retrieval_quality.py [--data DIR] [--library FOLDER] [--json]

The collection is the documents and the distractors of `qa/dev`, with the bundled embedder and the default search. A
hit is a result of the right document that holds a gold answer's span in its first 400 characters. Embedding takes most
of the time: `--library` keeps the library, for a second run or for `documents.py --only quality`.
"""

from __future__ import annotations

import collections
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _report import Report

from hanpaca.rag import Hit, Library

SHOWN = 400
"""Only so much of a result counts: a longer one would hold any answer."""


def rows(data: Path, name: str) -> list[dict[str, Any]]:
    """One file of `qa/dev`."""
    with (data / "qa" / "dev" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def fill(library: Library, documents: list[dict[str, Any]]) -> None:
    """Add documents under their ids."""
    for row in documents:
        library.add_text(row["text"], row["id"], embed=False)
    library.embed_pending()


@contextlib.contextmanager
def collection(data: Path, kept: Path | None, embedder: Any = None) -> Iterator[Library]:
    """The documents and distractors as a library: a new one, or the one in the folder `kept`, filled if need be."""
    documents = rows(data, "documents") + rows(data, "distractors")
    with contextlib.ExitStack() as stack:
        folder = kept or stack.enter_context(tempfile.TemporaryDirectory())
        library = stack.enter_context(Library.open(folder, embedder=embedder))
        if {info.path for info in library.files()} != {row["id"] for row in documents}:
            fill(library, documents)
        yield library


def is_hit(hit: Hit, question: dict[str, Any], document: str | None = None) -> bool:
    """Whether a result holds a gold answer's span in the characters that count."""
    if hit.file != (document or question["doc_id"]):
        return False
    end = min(hit.end, hit.start + SHOWN)
    spans = zip(question["answers"], question["answer_start"], strict=True)
    return any(hit.start <= start and start + len(answer) <= end for answer, start in spans)


def first_hit(hits: list[Hit], question: dict[str, Any], document: str | None = None) -> int | None:
    """The rank of the first hit, from 1."""
    return next((rank for rank, hit in enumerate(hits, 1) if is_hit(hit, question, document)), None)


def recall(library: Library, questions: list[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Language (and "all") → {1: R@1, 5: R@5}."""
    ranks: dict[str, list[int | None]] = collections.defaultdict(list)
    for question in questions:
        rank = first_hit(library.search(question["question"], k=5), question)
        ranks["all"].append(rank)
        ranks[question["lang"]].append(rank)
    return {
        language: {k: sum(rank is not None and rank <= k for rank in found) / len(found) for k in (1, 5)}
        for language, found in ranks.items()
    }


def main() -> int:
    """Ask every question."""
    report = Report("retrieval_quality", "How often search finds the passage that answers.")
    report.parser.add_argument("--library", type=Path, help="keep the collection's library in this folder")
    given = report.parse()
    data = Path(given.data or "")
    with collection(data, given.library) as library:
        found = recall(library, rows(data, "questions"))
    report.check("R@5", found["all"][5], least=0.97)
    report.check("R@1", found["all"][1], least=0.8)
    for language in sorted(found.keys() - {"all"}):
        report.check(f"R@5 {language}", found[language][5], least=0.97)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
