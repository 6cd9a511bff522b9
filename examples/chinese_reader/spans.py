"""Questions without a teacher: a sentence loses one of its parts, and that is what is asked for.

    HANPACA_DATA=FOLDER python examples/chinese_reader/spans.py OUT [SEED]

A clause of a document with 谁, 哪里, 哪一年, 多少 or 什么 in the place of a name, a place, a time, a number or a title
is a question whose answer stands in the sentence: so to find it is to read. Writes spans.jsonl in the prompt that
`--mode focus` writes, from the documents that `data.py` trains on and the distractors, with more questions of the same
sources after it; one first question in six is asked of sentences that do not hold the answer. Another seed makes other
questions of the same documents.
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

import jieba
import jieba.posseg
from data import CHARACTERS, SIMPLIFIED, held_out, other_characters, rows, turn
from swapping import thinned

from hanpaca.rag.focus import length, prompt
from hanpaca.rag.prompts import wording
from hanpaca.rag.sentences import sentences

UNANSWERABLE = 1 / 6
ALIKE = 0.6
"""So often the other sentences are those most like the question, as the app shows them."""
EVERY = 0.3
"""The share of the sentences whose question comes first."""
FURTHER = 4
"""At most so many more questions of the same sources."""
LEFT_OUT = (0, 0.2, 0.4)
"""The share of a question's words that is left out, one of these each time."""
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
ASKING = {"谁": "誰", "哪里": "哪裡", "什么时候": "什麼時候", "什么": "什麼", "哪个机构": "哪個機構"}
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
    plain = SIMPLIFIED.convert(sentence)
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
    if text.count(word) != 1:  # it stood in parentheses, or the text itself asks
        return ""
    text = _shortened(text, word, chance)
    if title and title not in text and chance.random() < 0.4:
        text = f"{title}{chance.choice(['的', '中', '：', ''])}{text}"
    return text.strip("，。；：、 ") + chance.choice(["？", "?", "", "？"])


def _shortened(text: str, word: str, chance: random.Random) -> str:
    """Without some of its words, so that looking for the same clause is not enough."""
    share = chance.choice(LEFT_OUT)
    before, asks, after = text.partition(word)
    kept = [thinned(part, share, chance) for part in (before, after)]
    return asks.join(kept) if sum(map(len, kept)) >= 4 else text


def pair(sentence: str, title: str, chance: random.Random) -> tuple[str, str] | None:
    """A question of a sentence with its answer; None where nothing of it can be asked for."""
    if not 15 <= len(sentence) <= 90 or not (possible := parts(sentence)):
        return None
    part = chance.choice(sorted(set(possible), key=lambda one: (-len(one[2]), one)))
    asked, answer = question(sentence, part, title, chance), sentence[part[0] : part[1]]
    if not asked or answer in asked or sentence.count(answer) > 1:
        return None
    return asked, answer


def examples(documents: list[dict[str, Any]], chance: random.Random) -> Iterator[dict[str, Any]]:
    """A prompt of every third sentence or so: its sources, its question, and a few more of what the sources say."""
    texts = [(row, [row["text"][a:b] for a, b in sentences(row["text"])]) for row in documents]
    for row, lines in texts:
        for number, line in enumerate(lines):
            if chance.random() > EVERY or not (first := pair(line, row["title"] or "", chance)):
                continue
            answerable = chance.random() > UNANSWERABLE
            shown = _sources(row["lang"], lines, number, first, answerable, texts, chance)
            pairs = [first, *_further(shown, first, chance)]
            yield _written(row["lang"], shown, pairs, chance)


def _sources(
    language: str,
    lines: list[str],
    number: int,
    first: tuple[str, str],
    answerable: bool,
    texts: list[tuple[dict[str, Any], list[str]]],
    chance: random.Random,
) -> list[str]:
    """At most three sentences, of which the asked one holds the answer, or none does."""
    room = chance.randint(*CHARACTERS) - len(lines[number])
    others = [line for i, line in enumerate(lines) if i != number and len(line) >= SHORTEST]
    chance.shuffle(others)
    asked, answer = first
    if chance.random() < ALIKE:
        others.sort(key=lambda line: -len(set(line) & set(asked)) / (len(line) + 20))
    for other, its in chance.sample(texts, 3):
        if other["lang"] == language and (its := [line for line in its if len(line) >= SHORTEST]):
            others.insert(chance.randint(0, 2), chance.choice(its))
    shown = [lines[number]] if answerable else []
    for line in others:
        if len(shown) >= 3 or (len(shown) > 1 and room < 20):
            break
        if answer not in line and (length(line) // 6 <= max(room, 0) or not shown):
            shown.append(line)
            room -= length(line) // 6
    chance.shuffle(shown)
    return shown


def _further(shown: list[str], first: tuple[str, str], chance: random.Random) -> Iterator[tuple[str, str]]:
    """Other questions of the same sources: most of a prompt is its sources, and they are read once for all."""
    known = {first[1]}
    for line in chance.choices(shown, k=FURTHER) if shown else []:
        found = pair(line, "", chance)
        if found and found[1] not in known and sum(found[1] in other for other in shown) == 1:
            known.add(found[1])
            yield found


def _written(language: str, shown: list[str], pairs: list[tuple[str, str]], chance: random.Random) -> dict[str, Any]:
    """The conversation. Some simplified texts become traditional: there are few of those."""
    if language == "zh-Hant":
        pairs = [(_asking(asked), answer) for asked, answer in pairs]
    words = wording("zh")
    said: list[dict[str, Any]] = []
    for asked, answer in pairs:
        at = next((i for i, line in enumerate(shown, 1) if answer in line), 0)
        answered = f"{answer}[{at}]" if at else words.absent
        if said:
            said += turn(words, asked, answered)
        else:
            said = [*map(vars, prompt(words, shown, asked)), {"role": "assistant", "content": answered}]
    made = {"messages": said}
    return other_characters(made) if language != "zh-Hant" and chance.random() < 0.1 else made


def _asking(asked: str) -> str:
    """A traditional text's question, the word that asks in traditional characters too."""
    word = next((word for word in ASKING if word in asked), "")
    return asked.replace(word, ASKING[word], 1) if word else asked


def main() -> int:
    if not os.environ.get("HANPACA_DATA") or len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    out, chance = Path(sys.argv[1]), random.Random(sys.argv[2] if len(sys.argv) > 2 else "0")
    data = Path(os.environ["HANPACA_DATA"])
    documents = [row for row in rows(data, "documents") if not held_out(row | {"doc_id": row["id"]})]
    made = list(examples([row for row in documents + rows(data, "distractors") if row["lang"] != "en"], chance))
    chance.shuffle(made)
    out.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in made)
    (out / "spans.jsonl").write_text(text, encoding="utf-8")
    print(f"{out / 'spans.jsonl'}: {len(made)} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
