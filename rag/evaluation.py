"""How well a library answers a user's own questions: recall@k, MRR, abstention, latency.

Questions are JSON lines with `question` and any of `file` (name or end of a path), `answer` or `answers` (a text that
a good passage holds), `answerable` (false: it should be refused). Knows no language model.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..core.encodings import decode
from ..core.errors import BadInput, UnreadableDocument
from .hits import Hit
from .library import Library
from .paths import ends_with
from .terms import fold

SHOWN = 400
"""An answer counts in the first characters of a passage only."""
RANKS = (1, 3, 5, 10)


@dataclass(frozen=True)
class Evaluation:
    """Figures of one run; shares from 0 to 1, None where no question asks for them."""

    questions: int
    recall: dict[int, float]
    """k → share of the answerable questions with a hit among the first k passages."""
    mrr: float | None
    """Mean of 1 / rank of the first hit, 0 where there is none among ten."""
    refused_answerable: float | None
    """Share of answerable questions that were refused: these are errors."""
    refused_unanswerable: float | None
    """Share of unanswerable questions that were refused, as they should be."""
    seconds_median: float
    seconds_p95: float
    missed: list[str]
    """The answerable questions without a hit among ten."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def read_questions(path: Path | str) -> list[dict[str, Any]]:
    """Questions from a JSONL file. Raises `BadInput` with the line that is wrong."""
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", "Give a file with one JSON object on each line.")
    questions = []
    for number, line in enumerate(_text(path).split("\n"), 1):  # splitlines() would cut at U+2028 within a string
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"Line {number} of {path} is no JSON: {error}.", "Write one object on each line.") from error
        question = row.get("question") if isinstance(row, dict) else None
        if not isinstance(question, str) or not question.strip():
            raise BadInput(f"Line {number} of {path} has no question.", 'Write {"question": …, "answer": …}.')
        if not isinstance(row.get("answerable", True), bool):
            raise BadInput(f'Line {number} of {path}: "answerable" is true or false.', "Write it without quotes.")
        questions.append(row)
    if not questions:
        raise BadInput(f"{path} holds no questions.", 'Write lines such as {"question": …, "answer": …}.')
    return questions


def _text(path: Path) -> str:
    try:
        decoded = decode(path.read_bytes())
    except UnreadableDocument as error:
        raise BadInput(f"{path} cannot be read: {error.problem}", "Give a text file, best in UTF-8.") from error
    if decoded.warnings:
        raise BadInput(f"{path} cannot be read: {decoded.warnings[0]}.", "Save it as UTF-8.")
    return decoded.text


def evaluate(
    library: Library,
    questions: Sequence[Mapping[str, Any]],
    mode: str = "hybrid",
    *,
    rerank: str | None = None,
    on_question: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Ask every question and compare; `on_question(done, total)` hears of each."""
    ranks: list[int | None] = []
    refused: dict[bool, list[bool]] = {True: [], False: []}
    seconds, missed = [], []
    for count, row in enumerate(questions):
        on_question(count, len(questions))
        start = time.perf_counter()
        found = library.find(row["question"], max(RANKS), mode, rerank=rerank)
        seconds.append(time.perf_counter() - start)
        answerable = bool(row.get("answerable", True))
        refused[answerable].append(not found.answerable)
        if answerable and (_files(row) or _answers(row)):
            rank = next((at for at, hit in enumerate(found.hits, 1) if _fits(hit, row)), None)
            ranks.append(rank)
            if rank is None:
                missed.append(row["question"])
    return Evaluation(
        len(questions),
        {k: _share([rank is not None and rank <= k for rank in ranks]) or 0.0 for k in RANKS} if ranks else {},
        statistics.fmean(1 / rank if rank else 0.0 for rank in ranks) if ranks else None,
        _share(refused[True]),
        _share(refused[False]),
        statistics.median(seconds),
        sorted(seconds)[math.ceil(0.95 * len(seconds)) - 1],
        missed,
    )


def _fits(hit: Hit, row: Mapping[str, Any]) -> bool:
    files, answers = _files(row), _answers(row)
    if files and not any(ends_with(hit.file, name) for name in files):
        return False
    shown = fold(hit.text[:SHOWN])
    return not answers or any(fold(answer) in shown for answer in answers)


def _files(row: Mapping[str, Any]) -> list[str]:
    return _given(row, "file", "files")


def _answers(row: Mapping[str, Any]) -> list[str]:
    return _given(row, "answer", "answers")


def _given(row: Mapping[str, Any], *names: str) -> list[str]:
    """The texts under the first of these names that has any; a number is one, `false` and "" are none."""
    for name in names:
        value = row.get(name)
        values = [value] if isinstance(value, str | int | float) and value is not False else value or ()
        if texts := [str(one) for one in values if one != ""]:
            return texts
    return []


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
