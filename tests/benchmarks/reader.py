"""How well the Chinese reader answers from passages that the app found, on documents that it was not trained on.

    python tests/benchmarks/reader.py [--adapter FILE] [--data DIR] [--library FOLDER] [--most N] [--json]

Greedy, through llama.cpp. Questions count whose gold answer is in the first three passages; `extract` is measured on
the same ones. A refusal is the model's own: the app's, before any model runs, is measured by `documents.py`.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from _report import Report
from retrieval_quality import collection, rows

import hanpaca
from hanpaca.rag import Answer, Library, answer
from hanpaca.rag.focus import PASSAGES

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "chinese_reader"))
from data import held_out, holds

SAMPLING = {"temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 96}
Counts = dict[str, list[float]]


def said(found: Answer) -> str:
    """An answer without its source numbers."""
    return re.sub(r"\s*\[\d+\]", "", found.text)


def f1(text: str, gold: str) -> float:
    """The usual F1, of Chinese characters and other words."""
    ours, theirs = (Counter(re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", one.lower())) for one in (text, gold))
    common = sum((ours & theirs).values())
    return 2 * common / (sum(ours.values()) + sum(theirs.values())) if common else float(text == gold)


def plain(text: str) -> str:
    return "".join(text.split()).lower()


def ask(library: Library, model: Any, question: dict[str, Any], counts: Counts) -> None:
    """One question that has an answer, to the reader and to `extract`."""
    options: dict[str, Any] = {"k": PASSAGES, "abstain": False, "sampling": SAMPLING}
    found = answer(library, model, question["question"], mode="focus", **options)
    quoted = answer(library, None, question["question"], mode="extract", abstain=False)
    golds = question["answers"]
    counts["contains"].append(any(plain(gold) in plain(found.text) for gold in golds))
    counts["F1"].append(max(f1(said(found), gold) for gold in golds))
    counts["refused"].append(found.refused)
    counts["extract contains"].append(any(plain(gold) in plain(quoted.text) for gold in golds))
    if found.citations:
        cited = [plain(hit.text) for number, hit in enumerate(found.hits, 1) if f"[{number}]" in found.text]
        counts["cited"].append(any(plain(said(found)).rstrip("。.") in text for text in cited))


def first_token(library: Library, model: Any, questions: list[dict[str, Any]]) -> tuple[float, float]:
    """(median seconds to the first token, tokens/s after it)."""
    from hanpaca.rag import AnswerDelta, stream_answer

    firsts, rates = [], []
    for question in questions:
        library.find(question["question"], 5)  # the question's vector is made beforehand
        start, times = time.perf_counter(), list[float]()
        options: dict[str, Any] = {"k": PASSAGES, "abstain": False, "sampling": SAMPLING, "mode": "focus"}
        for event in stream_answer(library, model, question["question"], **options):
            if isinstance(event, AnswerDelta):
                times.append(time.perf_counter())
            else:
                spent = times[-1] - times[0] if times else 0
                rates += [(event.usage.completion_tokens - 1) / spent] if spent else []
        firsts.append(times[0] - start)
    return statistics.median(firsts), statistics.median(rates)


def main() -> int:
    report = Report("reader", "How well the Chinese reader answers.")
    report.parser.add_argument("--library", type=Path, help="keep the collection's library in this folder")
    report.parser.add_argument("--adapter", type=Path, help="the reader, as a GGUF adapter; none: SmolLM2 as it is")
    report.parser.add_argument("--most", type=int, help="only so many questions")
    given = report.parse()
    if not given.data:
        raise SystemExit("Name the data folder (--data or HANPACA_DATA).")
    if given.adapter and not given.adapter.exists():
        raise SystemExit(
            f"There is no adapter {given.adapter}: examples/chinese_reader/README.md says how to make one."
        )
    data = Path(given.data)
    counts: defaultdict[str, Counts] = defaultdict(lambda: defaultdict(list))
    with (
        collection(data, given.library) as library,
        hanpaca.load("smollm2", loras=[given.adapter] if given.adapter else []) as model,
    ):
        wanted = [row for row in rows(data, "questions") if held_out(row)]
        asked = [row for row in wanted if any(holds(hit, row) for hit in library.search(row["question"], PASSAGES))]
        for row in asked[: given.most]:
            ask(library, model, row, counts[row["lang"]])
        none = [
            answer(library, model, row["question"], mode="focus", k=PASSAGES, abstain=False, sampling=SAMPLING).refused
            for row in rows(data, "unanswerable")[: given.most]
        ]
        seconds, rate = first_token(library, model, asked[:9])
    for language, found in sorted(counts.items()):
        for name, values in found.items():
            bar = BARS.get((language, name), {}) if given.adapter else {}
            report.check(f"{language} {name}", statistics.fmean(values), **bar)
    report.check("unanswerable refused", statistics.fmean(none), least=0.7 if given.adapter else None)
    report.check("first token, s", seconds, most=1.5)
    report.check("tokens/s", rate, least=60)
    return report.end()


BARS: dict[tuple[str, str], dict[str, float]] = {
    ("zh-Hans", "contains"): {"least": 0.6},
    ("zh-Hans", "F1"): {"least": 0.6},
    ("zh-Hans", "refused"): {"most": 0.1},
    ("zh-Hans", "cited"): {"least": 0.9},
}

if __name__ == "__main__":
    sys.exit(main())
