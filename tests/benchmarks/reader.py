"""How well the Chinese reader answers from passages that the app found, on documents that it was not trained on.

    python tests/benchmarks/reader.py [--adapter FILE | --base] [--every N] [--answers FILE] [--json]

Greedy, through llama.cpp. Questions count whose gold answer is in the first three passages. `contains`, `F1`, `refused`
and `cited` are what the reader says by itself; `shown contains` is what `hanpaca ask` shows, beside what `extract`
alone shows. A refusal is the model's own: the app's, before any model runs, is measured by `documents.py`.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _report import Report
from retrieval_quality import collection, rows

import hanpaca
from hanpaca import Completion
from hanpaca.rag import Hit, Library, answer
from hanpaca.rag.focus import PASSAGES, READING, focused, messages
from hanpaca.rag.prompts import wording
from hanpaca.rag.short_answer import refuses, sampling, words_of
from hanpaca.rag.terms import language_of

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "chinese_reader"))
from data import held_out, holds

Counts = dict[str, list[float]]


def f1(text: str, gold: str) -> float:
    """The usual F1, of Chinese characters and other words."""
    ours, theirs = (Counter(re.findall(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+", one.lower())) for one in (text, gold))
    common = sum((ours & theirs).values())
    return 2 * common / (sum(ours.values()) + sum(theirs.values())) if common else float(text == gold)


def plain(text: str) -> str:
    return "".join(text.split()).lower()


def ask(library: Library, model: Any, row: dict[str, Any], counts: Counts) -> Completion:
    """One question that has an answer: what the reader says by itself, what is shown, and what `extract` shows."""
    question, golds = row["question"], [plain(gold) for gold in row["answers"]]
    shown = look_up(library, question)
    said = read(library, model, question, shown)
    text = words_of(said)
    counts["contains"].append(any(gold in plain(text) for gold in golds))
    counts["F1"].append(max(f1(text, gold) for gold in row["answers"]))
    counts["refused"].append(refuses(said))
    counts["sees the answer"].append(any(gold in plain(part) for gold in golds for _, part in shown))
    if not refuses(said):
        named = re.search(r"\[(\d+)\]", said.text)
        number = int(named[1]) if named else 0
        counts["cited"].append(0 < number <= len(shown) and plain(text) in plain(shown[number - 1][1]))
    quoted = answer(library, None, question, mode="extract", abstain=False)
    found = answer(library, model, question, abstain=False)
    counts["extract contains"].append(any(gold in plain(quoted.text) for gold in golds))
    counts["shown contains"].append(any(gold in plain(found.text) for gold in golds))
    if found.mode == "focus" and not found.refused:
        counts["sure contains"].append(any(gold in plain(found.text.splitlines()[0]) for gold in golds))
    counts["sure"].append(found.mode == "focus" and not found.refused)
    return said


def look_up(library: Library, question: str) -> list[tuple[Hit, str]]:
    """The sentences that the reader is shown."""
    found = library.find(question, PASSAGES, fill=False)
    return focused(question, found.hits, found.weights, READING, library.nearness(question))


def read(library: Library, model: Any, question: str, shown: Sequence[tuple[Hit, str]]) -> Completion:
    """What the reader says, in the app's prompt."""
    words = wording(language_of(question) or "en")
    return model.chat(messages(words, shown, question), max_tokens=96, **sampling(model, shown, words, question))


def first_token(library: Library, model: Any, questions: list[dict[str, Any]]) -> tuple[float, float]:
    """(median seconds from the question to the first token, median tokens/s after it) of prompts of three passages."""
    firsts, rates = [], []
    for row in questions:
        start, times = time.perf_counter(), list[float]()
        question = row["question"]
        shown = look_up(library, question)
        words = wording(language_of(question) or "en")
        asked = messages(words, shown, question)
        for delta in model.stream_chat(asked, max_tokens=96, **sampling(model, shown, words, question)):
            times += [time.perf_counter()] * len(delta.logprobs)
        firsts.append(times[0] - start)
        rates += [(len(times) - 1) / (times[-1] - times[0])] if times[-1] > times[0] else []
    return statistics.median(firsts), statistics.median(rates)


def main() -> int:
    report = Report("reader", "How well the Chinese reader answers.")
    report.parser.add_argument("--library", type=Path, help="keep the collection's library in this folder")
    report.parser.add_argument("--adapter", type=Path, help="another reader, as a GGUF adapter over SmolLM2")
    report.parser.add_argument("--base", action="store_true", help="SmolLM2 as it is")
    report.parser.add_argument("--every", type=int, default=1, help="only every so many questions")
    report.parser.add_argument("--answers", type=Path, help="write what was said to this file, a line of JSON each")
    given = report.parse()
    if not given.data:
        raise SystemExit("Name the data folder (--data or HANPACA_DATA).")
    data = Path(given.data)
    counts: defaultdict[str, Counts] = defaultdict(lambda: defaultdict(list))
    lines = []
    name, loras = ("smollm2", [given.adapter]) if given.adapter else ("smollm2-reader", [])
    if given.base:
        name = "smollm2"
    with collection(data, given.library) as library, hanpaca.load(name, loras=loras) as loaded:
        model: Any = Reading(loaded) if name == "smollm2" else loaded
        wanted = [row for row in rows(data, "questions") if held_out(row)]
        asked = [row for row in wanted if any(holds(hit, row) for hit in library.search(row["question"], PASSAGES))]
        for row in asked[:: given.every]:
            said = ask(library, model, row, counts[row["lang"]])
            lines.append(told(row, said))
        for row in rows(data, "unanswerable")[:: given.every]:
            said = read(library, model, row["question"], look_up(library, row["question"]))
            counts["unanswerable"]["refused"].append(refuses(said))
            lines.append(told(row, said))
        seconds, rate = first_token(library, model, asked[:: max(1, len(asked) // 15)])
    if given.answers:
        given.answers.write_text(
            "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
        )
    for language, found in sorted(counts.items()):
        for what, values in found.items():
            bar = BARS.get((language, what), {}) if not given.base else {}
            report.check(f"{language} {what}", statistics.fmean(values), **bar)
    if not given.base:
        for language in sorted(counts.keys() - {"unanswerable"}):
            found = counts[language]
            over = statistics.fmean(found["shown contains"]) - statistics.fmean(found["extract contains"])
            bar = {"least": 1e-9} if language == "zh-Hans" else {"least": 0.0}  # nothing is above 1
            report.check(f"{language} shown contains, less extract contains", over, **bar)
    report.check("first token, s", seconds, most=1.5)
    report.check("tokens/s", rate, least=60)
    return report.end()


class Reading:
    """A model taken for a reader, such as the base with an adapter that is not in the catalog."""

    reads, languages = True, ("zh", "en")

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def told(row: dict[str, Any], said: Completion) -> dict[str, Any]:
    """A line of `--answers`."""
    tokens = [(one.text.decode("utf-8", "replace"), one.logprob) for one in said.logprobs]
    return {name: row.get(name) for name in ("id", "lang", "question", "answers")} | {
        "said": said.text,
        "tokens": tokens,
    }


BARS: dict[tuple[str, str], dict[str, float]] = {
    ("zh-Hans", "contains"): {"least": 0.6},
    ("zh-Hans", "F1"): {"least": 0.6},
    ("zh-Hans", "refused"): {"most": 0.1},
    ("zh-Hans", "cited"): {"least": 0.9},
    ("unanswerable", "refused"): {"least": 0.7},
}

if __name__ == "__main__":
    sys.exit(main())
