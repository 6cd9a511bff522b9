"""What the reader is taught on: questions with passages that the app itself found, in the prompt that the app writes.

    HANPACA_DATA=FOLDER python examples/chinese_reader/data.py OUT [SEED]

Writes train.jsonl, validation.jsonl (questions of documents that are never trained on) and the library that was asked.
Every question comes with its answer and the number of its source, up to four times of other sentences: in Chinese
once in the other characters, and twice with other answers in the sources where there are such (`swapping.py`), one of
these in the other characters too; some also without the passages that hold it, and then the answer is that there is
none. Another seed draws other sentences.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from opencc import OpenCC
from swapping import ANSWER, Answers, swapped

from hanpaca.rag import Hit, Library
from hanpaca.rag.focus import focused, messages
from hanpaca.rag.prompts import Wording, wording
from hanpaca.rag.terms import language_of

VALIDATION = 5
"""One document in so many is held out."""
PASSAGES = 3
CHARACTERS = (60, 120)
"""The fewest and the most Chinese characters of the passages of a prompt."""
DRAWS = 4
"""So often each question is asked, of other sentences if there are any: once as it is, a Chinese one once in the other
characters, and else with the true answers in the sources replaced by others."""
REFUSALS, NEAR = 1 / 5, 1 / 4
"""So many are asked once more of passages that do not hold the answer, and so many of those of its own document's."""
SURE = 3
"""Characters of an answer that is looked for without its place."""

SIMPLIFIED, TRADITIONAL = OpenCC("t2s"), OpenCC("s2tw")
ABSENT = wording("zh").absent
Row = dict[str, Any]


def rows(data: Path, name: str) -> list[Row]:
    with (data / "qa" / "dev" / f"{name}.jsonl").open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def held_out(row: Row) -> bool:
    """Whether a question belongs to a document that is not trained on; translations of a document go together."""
    together = min(str(row["doc_id"]), str(row.get("parallel_doc_id") or row["doc_id"]))
    return sha256(together.encode()).digest()[0] % VALIDATION == 0


def open_library(data: Path, folder: Path) -> Library:
    """The documents and distractors as a library, made once."""
    library = Library.open(folder)
    if not library.files():
        for row in rows(data, "documents") + rows(data, "distractors"):
            library.add_text(row["text"], row["id"], embed=False)
        library.embed_pending()
    return library


def holds(hit: Hit, row: Row) -> bool:
    """Whether a passage has a gold answer, where it stands in the document."""
    spans = zip(row["answers"], row["answer_start"], strict=True)
    return hit.file == row["doc_id"] and any(hit.start <= at and at + len(text) <= hit.end for text, at in spans)


def prompt(question: str, hits: Sequence[Hit], weights: Any, chance: random.Random) -> tuple[list[Row], list[str]]:
    """The messages of a prompt and the texts of its sources; their order is changed in half of the cases."""
    chosen = list(hits)
    if chance.random() < 0.5:
        chance.shuffle(chosen)
    shown = focused(question, chosen, weights, chance.randint(*CHARACTERS))
    words = wording(language_of(question) or "en")
    return [vars(message) for message in messages(words, shown, question)], [" ".join(t.split()) for _, t in shown]


def examples(
    library: Library, row: Row, sources: Collection[str], siblings: Sequence[Row], answers: Answers, seed: str = ""
) -> Iterator[Row]:
    """A question as it is trained on, with passages of the documents that may be.

    Other questions of the document that the same sources answer follow it: most of a prompt is its sources.
    """
    chance = random.Random(row["id"] + seed)
    found = library.find(row["question"], 24, fill=False)
    hits = [hit for hit in found.hits if hit.file in sources]
    chinese = language_of(row["question"]) == "zh"
    for draw in range(DRAWS):
        for made in _drawn(row, hits, found.weights, siblings, chance):
            if draw > 1:
                made = swapped(made, row["lang"], answers, chance)
            yield other_characters(made) if chinese and draw in (1, DRAWS - 1) else made


def _drawn(
    row: Row, hits: Sequence[Hit], weights: Any, siblings: Sequence[Row], chance: random.Random
) -> Iterator[Row]:
    """A question asked once of what holds its answer, and at times of what does not."""
    question, gold = row["question"], _gold(row)
    asked, texts = prompt(question, hits[:PASSAGES], weights, chance)
    numbers = [number for number, text in enumerate(texts, 1) if gold and gold in text]
    if numbers:
        said = {"role": "assistant", "content": f"{gold}[{numbers[0]}]"}
        yield {"messages": [*asked, said, *_further(row, texts, siblings, chance)]}
    if not gold or chance.random() < REFUSALS:
        near = chance.random() < NEAR
        others = [hit for hit in hits if near or hit.file not in (row["doc_id"], row.get("parallel_doc_id"))]
        others = [hit for hit in others if not any(text in hit.text for text in row["answers"])][:PASSAGES]
        if others:
            asked, _ = prompt(question, others, weights, chance)
            absent = wording(language_of(question) or "en").absent
            yield {"messages": [*asked, {"role": "assistant", "content": absent}]}


def other_characters(row: Row) -> Row:
    """A Chinese conversation in traditional characters that was in simplified ones, or the other way round.

    As it was where an answer would no longer stand in the sources: some characters depend on what is around them.
    """
    system, *others = row["messages"]
    first = others[0]["content"]
    to = max(
        SIMPLIFIED, TRADITIONAL, key=lambda one: sum(a != b for a, b in zip(_turned(first, one), first, strict=False))
    )
    turned = [one | {"content": _turned(one["content"], to)} for one in others]
    lines = turned[0]["content"].splitlines()
    answers = [ANSWER.fullmatch(one["content"]) for one in turned if one["role"] == "assistant"]
    whole = all(found is None or found[1] in lines[int(found[2]) - 1] for found in answers)
    return {"messages": [system, *turned]} if whole else row


def _turned(text: str, to: OpenCC) -> str:
    """The text in other characters, but for the app's own words."""
    return text if text == ABSENT else str(to.convert(text)).replace("問題：", "问题：")


def _gold(row: Row) -> str:
    return next((" ".join(text.split()) for text in row["answers"]), "")


def _further(row: Row, texts: Sequence[str], siblings: Sequence[Row], chance: random.Random) -> Iterator[Row]:
    """The other questions whose answer, too long to stand there by chance, is in exactly one of the sources."""
    for other in chance.sample(siblings, len(siblings)):
        gold = _gold(other)
        numbers = [number for number, text in enumerate(texts, 1) if gold in text]
        if other["id"] == row["id"] or len(gold) < SURE or len(numbers) != 1:
            continue
        yield from turn(wording(language_of(other["question"]) or "en"), other["question"], f"{gold}[{numbers[0]}]")


def turn(words: Wording, question: str, said: str) -> list[Row]:
    """A further question of sources that were shown before, and its answer."""
    *_, user = messages(words, [], question)
    return [{"role": "user", "content": user.content.strip()}, {"role": "assistant", "content": said}]


def main() -> int:
    if not os.environ.get("HANPACA_DATA") or len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    data, out, seed = Path(os.environ["HANPACA_DATA"]), Path(sys.argv[1]), "".join(sys.argv[2:])
    out.mkdir(parents=True, exist_ok=True)
    questions = rows(data, "questions")
    sources = {row["id"] for row in rows(data, "documents") if not held_out(row | {"doc_id": row["id"]})}
    taught = [row for row in questions if not held_out(row)]
    siblings: dict[str, list[Row]] = defaultdict(list)
    for row in taught:
        siblings[row["doc_id"]].append(row)
    answers = Answers((row["lang"], row["question"], _gold(row)) for row in taught)
    with open_library(data, out / "library") as library:
        made = [
            one for row in taught for one in examples(library, row, sources, siblings[row["doc_id"]], answers, seed)
        ]
    random.Random(0).shuffle(made)
    for name, lines in (("train", made), ("validation", [row for row in questions if held_out(row)])):
        text = "".join(dict.fromkeys(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{out / name}.jsonl: {text.count(chr(10))} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
