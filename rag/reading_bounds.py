"""Where in a source an answer may begin, and how far it must go at least, by what a Chinese question says.

"多少" wants a number in the same clause, and "谁" no date; what the question itself says is no answer to it; Chinese
words are not cut in two where jieba's dictionary has them. In doubt nothing is forbidden: what is can never be said.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec

from . import segmentation
from .terms import fold, is_han

_CLAUSE_ENDS = frozenset("，。；！？;!?…")
"""Not the Latin comma, which stands in numbers: 13,011."""
_MANY = re.compile(
    r"多少|多[大高长远久重宽](?=[？?，,。了才]|$)"
    # 几, but not in 哪几个, 第几, 几月, and in words such as 茶几, 欧几里得, 几乎, 几维, 几何, 几率, 几内亚, 几丁质
    r"|(?<![哪第茶欧明])几(?![乎维何率丁月日号]|内亚)"
)
_NUMERALS = "0-9零〇一二三四五六七八九十百千万亿两双半廿卅壹贰叁肆伍陆柒捌玖拾佰仟"
_NUMERAL = re.compile(f"[{_NUMERALS}]")
_NUMBER = re.compile(f"[{_NUMERALS}数几多每首末初无没全]")
_WHICH_YEAR = re.compile(r"[哪何几]一?年")
_YEAR = re.compile("[0-9〇一二三四五六七八九十廿元年朝]")
_WHO_OR_WHERE = re.compile(r"哪里|在哪(?!一?[年天月日场部个])|哪儿|何处|何地|什么地方|谁|哪位|何人")
_DATE = re.compile(r"[0-9]+(?:[.,:/~至-][0-9]+)*\s*(?:[年月日时岁,，。;；)）]|世纪|$)")
_MORE = re.compile(r"谁|哪[里个国位座些]|什么")
"""Where a question asks this too, its answer may be to that."""
_CHOICE = re.compile(r"还是|或|之一|吗|是否|是不是|有没有|[和与跟、].*[哪谁]")
"""Questions whose answer may be words of their own."""
_NAMED = frozenset("在于是为属由从到")
"""What stands in front of a name: 中国银行属于哪个国家？ 属于中国。"""


@dataclass(frozen=True)
class Bounds:
    """Of the answers to one question in one text."""

    least_ends: dict[int, int]
    """Where an answer may begin → the first place where it may end."""
    broken: frozenset[int]
    """Places in the middle of a Chinese word: no answer begins there, and none ends there unless the text does."""


def bounds(question: str, text: str, starts: Collection[int]) -> Bounds:
    """What the question leaves of the places at which an answer might begin. Offsets are code points."""
    asked, said = _Question.of(question), _folded(text)
    broken = _broken_words(said)
    clauses = [at for at, character in enumerate(text) if character in _CLAUSE_ENDS] + [len(text)]
    found = {}
    for start in starts:
        if start in broken:
            continue
        end = asked.least_end(said, start, clauses[bisect_left(clauses, start)])
        if end is not None:
            found[start] = end
    return Bounds(found, broken)


@dataclass(frozen=True)
class _Question:
    """What a question asks for. Of one that is not Chinese nothing is known."""

    words: str
    """Its own words; empty where they may be the answer."""
    wanted: re.Pattern[str] | None
    """What must stand in an answer."""
    no_date: bool
    """Whether an answer does not begin with a date."""

    @classmethod
    def of(cls, question: str) -> _Question:
        asked = fold(question)
        if not any(map(is_han, asked)):
            return cls("", None, False)
        wanted = _YEAR if _WHICH_YEAR.search(asked) else _NUMBER if _MANY.search(asked) else None
        wanted = None if _MORE.search(asked) else wanted
        no_date = wanted is None and _WHO_OR_WHERE.search(asked) is not None
        return cls("" if _CHOICE.search(asked) else asked, wanted, no_date)

    def least_end(self, said: str, start: int, clause: int) -> int | None:
        """The first place where an answer that begins here may end; None where it must not begin here.

        It has to reach what is asked for, and to go beyond the question's words, before `clause` is over.
        """
        if self.no_date and _DATE.match(said, start):
            return None
        end = self._beyond_its_words(said, start, clause)
        if end is None or self.wanted is None:
            return end
        held = self.wanted.search(said, start, clause)
        return max(end, held.end()) if held else None

    def _beyond_its_words(self, said: str, start: int, clause: int) -> int | None:
        """The end of the first letter that goes beyond them; None where the clause ends with them."""
        same = 0
        while start + same < clause and said[start : start + same + 1] in self.words:
            same += 1
        if same < 2 or said[start - 1 : start] in _NAMED:  # one character in common is chance
            return start + 1
        return next((at + 1 for at in range(start + same, clause) if said[at].isalnum()), None)


def _folded(text: str) -> str:
    """The text as it is compared, each character in its place: those that would become several stay."""
    return "".join(one if len(one := fold(character)) == 1 else character for character in text)


def _broken_words(text: str) -> frozenset[int]:
    """Places between two characters of one word; none where jieba is not installed."""
    if find_spec("jieba") is None or not any(map(is_han, text)):
        return frozenset()
    found, place = set[int](), 0
    for word in segmentation.known_words(text):
        inside = range(place + 1, place + len(word))
        found.update(at for at in inside if is_han(text[at - 1]) and is_han(text[at]))
        place += len(word)
    return frozenset(at for at in found if not _NUMERAL.match(text, at - 1))  # 六十三岁 is a word, 六十三 an answer
