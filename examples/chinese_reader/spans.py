"""Questions without a teacher: a sentence loses one of its parts, and that is what is asked for.

    HANPACA_DATA=FOLDER python examples/chinese_reader/spans.py OUT [SEED]

A clause of a document with 谁, 哪里, 哪一年, 多少 or 什么 in the place of a name, a place, a time, a number or a title
is a question whose answer stands in the sentence: so to find it is to read. Writes spans.jsonl in the prompt that
`--mode focus` writes, from the documents that `data.py` trains on; one question in six is asked of sentences that do
not hold the answer. Another seed makes other questions of the same documents.
"""

from __future__ import annotations

import json
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jieba.posseg
from data import CHARACTERS, held_out, rows
from opencc import OpenCC

from hanpaca.rag.focus import length, prompt
from hanpaca.rag.prompts import wording
from hanpaca.rag.sentences import sentences

UNANSWERABLE = 1 / 6
LONGEST = 60
"""Characters of a question."""
SHORTEST = 8
"""Characters of a sentence."""
TIME = re.compile(
    r"(?:公元前?|西元前?)?\d{2,4}年(?:\d{1,2}月(?:\d{1,2}日)?)?|\d{1,2}月\d{1,2}日|[12]\d{3}(?=至|到|－|-)"
)
NUMBER = re.compile(r"(?:约|超过|近)?(\d[\d,.]*[万亿百千萬億]?)([\u4e00-\u9fff%％]{1,2})")
TITLE = re.compile(r"《[^》]{1,20}》|“[^”]{2,14}”|「[^」]{2,14}」")
CLAUSE = re.compile(r"[^，。；！？：,;!?\n]+")
KINDS = {"nr": "谁", "nrt": "谁", "nrfg": "谁", "ns": "哪里", "nt": "哪个机构", "nz": "什么"}
NOUNS = frozenset(("n", "l", "i", "vn", "an", "j", "eng"))
_simplified, _traditional = OpenCC("t2s"), OpenCC("s2t")
Part = tuple[int, int, str]
"""(start, end, the word that asks for it) in a sentence."""


def parts(sentence: str) -> list[Part]:
    """What could be asked for in a sentence."""
    found: list[Part] = [
        (m.start(), m.end(), "哪一年" if m[0].endswith("年") else "什么时候") for m in TIME.finditer(sentence)
    ]
    found += [(m.start(), m.end(), "什么") for m in TITLE.finditer(sentence)]
    found += [(m.start(1), m.end(1), "多少") for m in NUMBER.finditer(sentence) if m[2][0] not in "年月日世"]
    found += _names(sentence)
    return [part for part in found if 1 < part[1] - part[0] <= 24]


def _names(sentence: str) -> Iterator[Part]:
    """Names by jieba's tags, and runs of nouns, which are often terms."""
    plain = _simplified.convert(sentence)
    if len(plain) != len(sentence):
        return
    words = list(jieba.posseg.cut(plain))
    at, start, kind = 0, 0, ""
    for word, flag in [*((one.word, one.flag) for one in words), ("", "")]:
        own = KINDS.get(flag, "什么" if flag in NOUNS else "")
        if kind and (own != kind or kind in ("谁", "哪里")):
            yield start, at, kind
            kind = ""
        if own and not kind:
            start, kind = at, own
        at += len(word)


def question(sentence: str, part: Part, title: str, chance: random.Random) -> str:
    """The clauses around a part with the word that asks in its place."""
    start, end, word = part
    clauses = [m.span() for m in CLAUSE.finditer(sentence)]
    own = next((i for i, (a, b) in enumerate(clauses) if a <= start and end <= b), None)
    if own is None:
        return ""
    first = max(0, own - chance.randint(0, 1))
    last = min(len(clauses) - 1, own + (chance.random() < 0.3))
    a, b = clauses[first][0], clauses[last][1]
    text = f"{sentence[a:start]}{word}{sentence[end:b]}"
    kept = [one for one in re.split(r"[，、,]", text) if one]
    if len(text) > LONGEST or len(text) < 8:
        return ""
    if len(kept) > 1 and chance.random() < 0.3:  # the clause that asks comes first, as people put it
        kept.sort(key=lambda one: word not in one)
        text = "，".join(kept)
    text = re.sub(r"[（(][^）)]*[）)]", "", text)
    if title and title not in text and chance.random() < 0.4:
        text = f"{title}{chance.choice(['的', '中', '：', ''])}{text}"
    return text.strip("，。；：、 ") + chance.choice(["？", "?", "", "？"])


def examples(documents: list[dict[str, Any]], chance: random.Random) -> Iterator[dict[str, Any]]:
    """One question of every second sentence or so, with its sources."""
    texts = [(row, [row["text"][a:b] for a, b in sentences(row["text"])]) for row in documents]
    for row, lines in texts:
        for number, line in enumerate(lines):
            if not 15 <= len(line) <= 90 or not (possible := parts(line)):
                continue
            part = chance.choice(sorted(set(possible), key=lambda one: (-len(one[2]), one)))
            asked = question(line, part, row["title"] or "", chance)
            answer = line[part[0] : part[1]]
            if not asked or answer in asked or line.count(answer) > 1:
                continue
            if example := _example(row, lines, number, asked, answer, texts, chance):
                yield example


def _example(
    row: dict[str, Any],
    lines: list[str],
    number: int,
    asked: str,
    answer: str,
    texts: list[tuple[dict[str, Any], list[str]]],
    chance: random.Random,
) -> dict[str, Any] | None:
    """A prompt of a few sources, one of which holds the sentence, or none. None where the other characters differ by
    what stands around them."""
    absent = chance.random() < UNANSWERABLE
    room = chance.randint(*CHARACTERS) - len(lines[number])
    others = [line for i, line in enumerate(lines) if i != number and answer not in line and len(line) >= SHORTEST]
    chance.shuffle(others)
    for other, its in chance.sample(texts, 3):
        if other["lang"] == row["lang"] and (its := [line for line in its if len(line) >= SHORTEST]):
            others.insert(chance.randint(0, 2), chance.choice(its))
    shown = [] if absent else [lines[number]]
    for line in others:
        if len(shown) >= 3 or (len(shown) > 1 and room < 20):
            break
        if answer not in line and (length(line) // 6 <= max(room, 0) or not shown):
            shown.append(line)
            room -= length(line) // 6
    chance.shuffle(shown)
    if row["lang"] == "zh-Hant":
        asked = _traditional.convert(asked)
    elif chance.random() < 0.1:  # simplified texts in the other characters: there are few traditional ones
        shown, asked, answer = (
            [_traditional.convert(line) for line in shown],
            *map(_traditional.convert, (asked, answer)),
        )
    at = next((i for i, line in enumerate(shown, 1) if answer in line), 0)
    if not absent and not at:
        return None
    said = wording("zh").absent if absent else f"{answer}[{at}]"
    written = prompt(wording("zh"), shown, asked)
    return {"messages": [*(vars(one) for one in written), {"role": "assistant", "content": said}]}


def main() -> int:
    if not os.environ.get("HANPACA_DATA") or len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    out, chance = Path(sys.argv[1]), random.Random(sys.argv[2] if len(sys.argv) > 2 else "0")
    documents = [row for row in rows(Path(os.environ["HANPACA_DATA"]), "documents") if row["lang"] != "en"]
    made = list(examples([row for row in documents if not held_out(row | {"doc_id": row["id"]})], chance))
    chance.shuffle(made)
    out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in made)
    (out / "spans.jsonl").write_text(text, encoding="utf-8")
    print(f"{out / 'spans.jsonl'}: {len(made)} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
