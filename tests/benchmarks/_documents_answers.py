"""Searching and answering in figures: recall, abstention, quotations, generated answers. Parts of `documents.py`."""

from __future__ import annotations

import re
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _report import Report
from retrieval_quality import collection, fill, first_hit, recall, rows

from hanpaca.rag import Library, answer, extract
from hanpaca.rag.embedding import Embedder, load_embedder

GENERATED = 154
"""At most so many questions for the small model, which takes seconds for each: all of XQuAD's English ones."""


class Remembering:
    """An embedder that was shown texts beforehand: thousands at once are embedded several times as fast."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner
        self._known: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def remember(self, texts: list[str]) -> None:
        self._known |= zip(texts, self._inner.embed_passages(texts), strict=True)

    def embed_passages(self, texts: Any) -> Any:
        if all(text in self._known for text in texts):
            return np.stack([self._known[text] for text in texts])
        return self._inner.embed_passages(texts)


def quality(data: Path, report: Report) -> None:
    """Search, abstention, quotations."""
    questions, unanswerable = rows(data, "questions"), rows(data, "unanswerable")
    embedder = Remembering(load_embedder())
    with collection(data, report.options.library, embedder) as library:
        found = recall(library, questions)
        report.check("R@5", found["all"][5], least=0.99)
        report.check("R@1", found["all"][1], least=0.88)
        for language in sorted(found.keys() - {"all"}):
            report.check(f"R@5 {language}", found[language][5], least=0.99)
            report.check(f"R@1 {language}", found[language][1], least=0.88)
        report.check("cross-lingual R@10", _cross_lingual(library, questions), least=0.5)
        refused = [not library.find(question["question"]).answerable for question in questions]
        rightly = [not library.find(question["question"]).answerable for question in unanswerable]
        report.check("answerable refused", statistics.fmean(refused), most=0.05)
        report.check("unanswerable refused", statistics.fmean(rightly), least=0.9)
        report.check("answer in two quotations", _quoted(library, questions, embedder), least=0.85)


def _cross_lingual(library: Library, questions: list[dict[str, Any]]) -> float:
    """Share of English questions whose Chinese document's answer is among the first ten of everything."""
    by_id = {question["id"]: question for question in questions}
    english = [question for question in questions if question["lang"] == "en" and question.get("parallel_id") in by_id]
    hits = [first_hit(library.search(q["question"], k=10), by_id[q["parallel_id"]]) for q in english]
    return statistics.fmean(rank is not None for rank in hits)


def _quoted(library: Library, questions: list[dict[str, Any]], embedder: Remembering) -> float:
    """Share of questions whose gold answer lies in the first two quoted sentences."""
    found = [library.find(question["question"], 5) for question in questions]

    def quoted(nearness: Callable[[str], Any]) -> list[list[extract.Quote]]:
        return [
            extract.quotes(q["question"], one.hits, one.weights, 2, nearness(q["question"]))
            for q, one in zip(questions, found, strict=True)
        ]

    compared: set[str] = set()

    def note(texts: list[str]) -> list[float]:
        compared.update(texts)
        return [0.0] * len(texts)

    quoted(lambda _: note)
    embedder.remember(sorted(compared))
    best = zip(questions, quoted(library.nearness), strict=True)
    return statistics.fmean(any(_holds(quote, q) for quote in quotes) for q, quotes in best)


def _holds(quote: extract.Quote, question: dict[str, Any]) -> bool:
    spans = zip(question["answers"], question["answer_start"], strict=True)
    return quote.hit.file == question["doc_id"] and any(
        quote.start <= start and start + len(text) <= quote.end for text, start in spans
    )


def generated(data: Path, report: Report) -> None:
    """SmolLM2 on English questions, beside quotations on the same ones."""
    import hanpaca

    questions = [question for question in rows(data, "questions") if question["lang"] == "en"][:GENERATED]
    figures: dict[str, defaultdict[str, float]] = {"stuff": defaultdict(float), "extract": defaultdict(float)}
    with tempfile.TemporaryDirectory() as folder, Library.open(folder) as library, hanpaca.load("smollm2") as model:
        fill(library, [row for row in rows(data, "documents") + rows(data, "distractors") if row["lang"] == "en"])
        for question in questions:
            for mode, counts in figures.items():
                sampling = {"temperature": 0.0, "max_tokens": 48}
                given = answer(library, model, question["question"], mode=mode, k=3, sampling=sampling)
                counts["refused"] += given.refused
                counts["contains"] += any(text.lower() in given.text.lower() for text in question["answers"])
                said = re.sub(r"\[\d+\]", "", given.text)
                counts["f1"] += max(_f1(said, text) for text in question["answers"])
                counts["citations"] += len(given.citations)
                counts["right"] += sum(citation.file == question["doc_id"] for citation in given.citations)
    for mode, counts in figures.items():
        report.check(f"{mode}: contains the answer", counts["contains"] / len(questions))
        report.check(f"{mode}: F1", counts["f1"] / len(questions))
        report.check(f"{mode}: citation precision", counts["right"] / max(1, counts["citations"]))
        report.check(f"{mode}: refused", counts["refused"] / len(questions))
    worse = figures["stuff"]["contains"] < figures["extract"]["contains"]
    report.check("the model does worse than quoting", float(worse))
    if worse:
        report.say("The model does worse than quoting the documents: `--mode extract` serves these questions better.")


def _f1(said: str, gold: str) -> float:
    ours, theirs = (Counter(re.findall(r"\w+", text.lower())) for text in (said, gold))
    common = sum((ours & theirs).values())
    return 2 * common / (sum(ours.values()) + sum(theirs.values())) if common else 0.0
