"""How often search finds the passage that answers: R@5 and R@1 on questions with known answers.

    python tests/benchmarks/retrieval_quality.py [--data DIR] [--json]

The collection is the documents and the distractors of `qa/dev`, with the bundled embedder and the default search. A
hit is a result of the right document that holds a gold answer's span in its first 400 characters.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

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


def check(name: str, value: float, bar: float, at_most: bool = False) -> dict[str, Any]:
    """One line of a benchmark's report."""
    return {"name": name, "value": round(value, 4), "bar": bar, "ok": value <= bar if at_most else value >= bar}


def report(benchmark: str, checks: list[dict[str, Any]], as_json: bool) -> int:
    """Print the checks; the exit code."""
    for line in checks:
        print(
            f"{'ok  ' if line['ok'] else 'FAIL'} {line['name']}: {line['value']} (bar {line['bar']})", file=sys.stderr
        )
    if as_json:
        print(json.dumps({"benchmark": benchmark, "checks": checks}, ensure_ascii=False))
    return 0 if all(line["ok"] for line in checks) else 1


def arguments(description: str | None) -> argparse.Namespace:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("HANPACA_DATA"), help="the data folder")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args()
    if given.data is None or not Path(given.data).is_dir():
        parser.error("name the data folder with --data or HANPACA_DATA")
    given.data = Path(given.data)
    return given


def main() -> int:
    """Build the collection from nothing and ask every question."""
    given = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder, Library.open(folder) as library:
        fill(library, rows(given.data, "documents") + rows(given.data, "distractors"))
        found = recall(library, rows(given.data, "questions"))
    checks = [check("R@5", found["all"][5], 0.97), check("R@1", found["all"][1], 0.8)]
    checks += [check(f"R@5 {language}", found[language][5], 0.97) for language in sorted(found) if language != "all"]
    return report("retrieval_quality", checks, given.json)


if __name__ == "__main__":
    sys.exit(main())
