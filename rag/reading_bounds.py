"""Where in a source an answer may begin, and how far it must go at least, by what the question says.

"How many" wants a number, and "who" does not begin with one; what the question says itself is no answer to it; Chinese
words are not cut in two where jieba knows them. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec

from . import segmentation
from .terms import fold, is_han

_CLAUSE_ENDS = frozenset("，。；！？;!?…")
_NUMERALS = "[0-9零〇一二三四五六七八九十百千万亿两双半]"
_ENGLISH_NUMBERS = "one|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|third|half|hundred|thousand|million"
_HOW_MANY = re.compile(
    r"多少|(?<![哪茶])几(?!乎|维|何|率|内亚)|多[大高长远久重宽]|how (?:many|much|long|far|old|tall)|(?:what|which) year"
)
_WHICH_DAY = re.compile(r"(?:哪一?|何|几)年|哪一?天|几月|几日")
_WHEN = re.compile(r"何时|什么时候|什么时间")
_NO_NUMBER = re.compile(r"哪里|在哪(?!一?[年天月日场部个])|哪儿|何处|何地|什么地方|谁|哪位|何人|^(?:who|where) ")
_CHOICE = re.compile(r"还是|或|\bor\b|之一")
_WANTED = (
    (_HOW_MANY, re.compile(f"{_NUMERALS}|{_ENGLISH_NUMBERS}")),
    (_WHICH_DAY, re.compile("[0-9一二三四五六七八九十元]")),
    (_WHEN, re.compile("[0-9年月日纪代期时前后朝]")),
)


@dataclass(frozen=True)
class Bounds:
    """Of the answers to one question in one text."""

    least_ends: dict[int, int]
    """Where an answer may begin → the first place where it may end."""
    broken: frozenset[int]
    """Places in the middle of a Chinese word: no answer begins or ends there."""


def bounds(question: str, text: str, starts: Collection[int]) -> Bounds:
    """What the question leaves of the places at which an answer might begin. Offsets are code points."""
    asked, said = fold(question), fold(text)
    said = said if len(said) == len(text) else text
    broken = _broken_words(said)
    found = {}
    for start in starts:
        if start not in broken and (end := _least_end(asked, said, start)) is not None:
            found[start] = end
    return Bounds(found, broken)


def _least_end(asked: str, said: str, start: int) -> int | None:
    """The first place where an answer that begins here has said something; None where it cannot in this clause."""
    clause = next((at for at in range(start, len(said)) if said[at] in _CLAUSE_ENDS), len(said))
    end = start + 1 if _CHOICE.search(asked) else _beyond_the_question(asked, said, start, clause)
    wanted = next((form for cue, form in _WANTED if cue.search(asked)), None)
    if wanted is None:
        if said[start].isdigit() and _NO_NUMBER.search(asked):
            return None
    elif held := wanted.search(said, start, clause):
        end = max(end, held.end())
    else:
        return None
    return end if end <= max(clause, start + 1) else None


def _beyond_the_question(asked: str, said: str, start: int, clause: int) -> int:
    """The end of the first character after what the question says, too."""
    same = 0
    while start + same < clause and said[start : start + same + 1] in asked:
        same += 1
    if same < 2:
        return start + 1
    return next((at + 1 for at in range(start + same, clause) if said[at].isalnum()), len(said) + 1)


def _broken_words(text: str) -> frozenset[int]:
    """Places between two characters of one word; none where jieba is not installed."""
    if find_spec("jieba") is None or not any(map(is_han, text)):
        return frozenset()
    found, place = set[int](), 0
    for word in segmentation.words(text):
        inside = range(place + 1, place + len(word))
        found.update(at for at in inside if is_han(text[at - 1]) and is_han(text[at]))
        place += len(word)
    return frozenset(found)
