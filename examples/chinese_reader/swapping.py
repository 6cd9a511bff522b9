"""Sources in which the true answers are replaced by others, so that to know a question by heart does not answer it.

A model that meets a question several times learns its answer instead of reading. Here a number gets other digits and
another name the place of a name, in the sources and in what is said of them alike (as in Longpre et al., "Entity-Based
Knowledge Conflicts in Question Answering", EMNLP 2021), and a question loses some of its words.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import jieba

ANSWER = re.compile(r"(.+)\[(\d+)\]")
LONGEST = 16
"""Characters of an answer that may be another's."""
LEFT_OUT = (0, 0, 0.15, 0.3)
"""The share of a question's words that is left out, one of these each time."""
_KINDS = {
    "who": re.compile(r"谁|誰|何人|哪位|什么人|什麼人|名字|姓名|[Ww]ho"),
    "where": re.compile(r"哪[里裡裏儿個个]?[国國省市县縣州区區城地]|哪[里裡裏儿]|何[处處地]|什[么麼]地方|[Ww]here"),
    "title": re.compile(r"[《「“]"),
}
_KEPT = re.compile(r"[谁誰何哪几幾多什怎么麼为為吗嗎是啥若不没沒非未无無除最]")
"""A word with one of these is not left out: it asks, or turns the question round."""
Row = dict[str, Any]


class Answers:
    """The answers that there are, by kind and characters."""

    def __init__(self, pairs: Iterable[tuple[str, str, str]]) -> None:
        """`pairs`: language, question and answer."""
        self._of: dict[tuple[str, str], list[str]] = defaultdict(list)
        for language, question, answer in pairs:
            if 2 <= len(answer) <= LONGEST and not re.search(r"\d", answer):
                self._of[language, _kind(question, answer)].append(answer)

    def another(self, language: str, question: str, answer: str, chance: random.Random) -> str | None:
        """Something else that might have been the answer, about as long; None where there is none."""
        if not 2 <= len(answer) <= LONGEST:
            return None
        if re.search(r"\d", answer):
            return re.sub(r"\d", lambda _: str(chance.randint(1, 9)), answer)
        near = [
            one
            for one in self._of[language, _kind(question, answer)]
            if one != answer and abs(len(one) - len(answer)) <= 1 + len(answer) // 3
        ]
        # The last character of a Chinese name says what it names.
        alike = [one for one in near if one[-1] == answer[-1]]
        return chance.choice(alike or near) if near else None


def _kind(question: str, answer: str) -> str:
    if _KINDS["title"].search(answer):
        return "title"
    if re.fullmatch(r"[\x00-\x7f·]+", answer):
        return "latin"
    return next((kind for kind in ("who", "where") if _KINDS[kind].search(question)), "what")


def swapped(row: Row, language: str, answers: Answers, chance: random.Random) -> Row:
    """A conversation with other answers in its sources, but for one that is part of another or of a question."""
    messages = [dict(one) for one in row["messages"]]
    users = [one for one in messages if one["role"] == "user"]
    said = [one for one in messages if one["role"] == "assistant"]
    for user, assistant in zip(users, said, strict=True):
        found = ANSWER.fullmatch(assistant["content"])
        new = found and answers.another(language, _question(user), found[1], chance)
        if not found or not new or any(found[1] in _question(one) for one in users):
            continue
        others = [one["content"] for one in said if one is not assistant]
        if any(found[1] in other or new in other for other in others) or new in users[0]["content"]:
            continue
        users[0]["content"] = users[0]["content"].replace(found[1], new)
        assistant["content"] = f"{new}[{found[2]}]"
    for user in users:
        asked = _question(user)
        user["content"] = user["content"].removesuffix(asked) + shortened(asked, chance)
    return {"messages": messages}


def _question(user: Row) -> str:
    return str(user["content"].rsplit("问题：", 1)[-1].rsplit("Question: ", 1)[-1])


def shortened(question: str, chance: random.Random) -> str:
    """A Chinese question without some of its words, but for those that ask."""
    share = chance.choice(LEFT_OUT)
    if not re.search("[\u4e00-\u9fff]", question):
        return question
    kept = thinned(question, share, chance)
    return kept if len(kept) >= max(6, len(question) * 0.6) else question


def thinned(text: str, share: float, chance: random.Random) -> str:
    """Chinese without that share of its words, those that ask or turn a question round not counted."""
    return "".join(one for one in jieba.cut(text) if _KEPT.search(one) or chance.random() >= share)
