"""Text → the terms that keyword search compares: folded words, and pairs of neighbouring Chinese characters.

Folding is for search only; nothing that a user reads passes through it. Knows no database.
"""

from __future__ import annotations

import importlib.resources
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import accumulate

import numpy as np

ANALYSIS = "1"
"""Version of the rules below. A library remembers it: other rules need another index."""

_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(rf"[{_CJK}]+|(?:(?![{_CJK}])[^\W_])+")
_WORD = re.compile(rf"(?:(?![{_CJK}])[^\W_])+")
_IS_CJK = re.compile(rf"[{_CJK}]")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_JOINS = re.compile(r"[\u0900-\u1fff\ua800-\ud7ff\U00010a00-\U0001e8ff]")
"""Scripts in which letters join with those before them, such as the parts of a Korean syllable."""
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]+")
_FUNCTION_TERMS = """
a about after all also an and any are as at be been before but by can could did do does for from get had has have he her
him his how i if in into is it its just like many may me more most much my no not of on one only or other our out over
she should so some such than that the their them then there these they this to under up us use was we were what when
where which while who whom whose why will with would you your
什么 怎么 怎样 么样 如何 多少 为什 哪个 哪些 哪里 哪一 是谁 是什 有什 可以 我们 你们 他们 这个 那个 一个 是不 不是
没有 有没 是的 的是 了吗 是否 能不 不能 请问 告诉 诉我
"""
FUNCTION_TERMS = frozenset(_FUNCTION_TERMS.split())
"""Terms that say nothing of what a question is about."""
PARTICLE = "的"
"""Chinese may leave it out (安装的软件, 安装软件), so the pair across it is a pair too."""
_HOW = re.compile(
    r"(?:请问)?(?:我们?)?(?:应该?)?(?:如何|怎样|怎么样?)(?:才能|才可以|能够?|可以)?"
    r"(?:查看|看到|得知|知道|了解)?"
    r"|\bhow (?:do|can|could|should|would|to)\b(?: (?:i|you|we|one)\b)?"
    r"(?: (?:see|view|know|tell|find out)\b)?"
)
"""How a question asks for a way: a manual that says what a command lists or shows seldom says that one sees it."""
_VARIANTS = {"裏": "里", "著": "着", "妳": "你", "祂": "他", "牠": "它", "佔": "占", "週": "周", "註": "注", "臺": "台"}
"""Forms that depend on the word and so are missing in a table of single characters; search may merge them."""


@cache
def _to_simplified() -> dict[int, str]:
    """Traditional → simplified, one character to one, from OpenCC's table."""
    table = importlib.resources.files("opencc").joinpath("dictionary", "TSCharacters.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t") for line in table.splitlines() if "\t" in line)
    simplified = {ord(old): new.split()[0] for old, new in pairs if len(old) == 1}
    return simplified | {ord(old): new for old, new in _VARIANTS.items()}


class _Context(ValueError):
    """A character whose normal form depends on its neighbours."""


class _Folding(dict[int, str | int]):
    """Character → folded, filled as characters are met: one look-up for each is all that most texts need."""

    def __missing__(self, code: int) -> str | int:
        character = chr(code)
        normal = unicodedata.normalize("NFKC", character)
        if _JOINS.search(normal) or any(map(unicodedata.combining, normal)):
            raise _Context
        folded = normal.casefold().translate(_to_simplified())
        found = self[code] = ord(folded) if len(folded) == 1 else folded
        return found


_folding = _Folding()
_OTHER, _UNMET = 0, 0xFFFFFFFF
_folded = np.full(0x110000, _UNMET, np.dtype("<u4"))
"""The same as an array, for many texts at once: `_OTHER` where a character does not fold to one alone."""


def fold(text: str) -> str:
    """The form in which texts are compared: NFKC, no case, simplified characters. The length may change.

    >>> fold("ＬｉｎＵＸ 與臺灣")
    'linux 与台湾'
    """
    try:
        return text.translate(_folding)
    except _Context:
        return unicodedata.normalize("NFKC", text).casefold().translate(_to_simplified())


def fold_all(texts: Sequence[str]) -> list[str]:
    """`fold` of each text, several times as fast as one by one."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
    folded = _folded[codes]
    if (folded == _UNMET).any():
        for code in set(codes[folded == _UNMET].tolist()):
            _folded[code] = _single(code)
        folded = _folded[codes]
    whole = folded.tobytes().decode("utf-32-le", "surrogatepass")
    ends = list(accumulate(map(len, texts)))
    singly = set(np.searchsorted(ends, np.flatnonzero(folded == _OTHER), side="right").tolist())
    return [
        fold(text) if at in singly else whole[end - len(text) : end]
        for at, (text, end) in enumerate(zip(texts, ends, strict=True))
    ]


def _single(code: int) -> int:
    try:
        found = _folding[code]
    except _Context:
        return _OTHER
    return found if isinstance(found, int) else _OTHER


def terms(text: str) -> list[str]:
    """Words, and pairs of neighbouring characters in Chinese, Japanese and Korean, in their order.

    >>> terms("用 apt 安裝軟體, apts")
    ['用', 'apt', '安装', '装软', '软体', 'apt']
    """
    found: list[str] = []
    for run in _RUN.findall(fold(text)):
        if not _IS_CJK.match(run):
            found.append(_stem(run))
        elif len(run) == 1:
            found.append(run)
        else:
            found.extend(run[at : at + 2] for at in range(len(run) - 1))
    return found


def subject(question: str) -> str:
    """A question, folded, without the words that ask how.

    >>> subject("如何查看已安装的软件？"), subject("How do I list files?"), subject("怎么样")
    (' 已安装的软件?', '  list files?', '怎么样')
    """
    folded = fold(question)
    rest = _HOW.sub(" ", folded)
    return rest if any(map(str.isalnum, rest)) else folded


def question_terms(question: str) -> list[str]:
    """The different terms to look for.

    >>> question_terms("如何查看安装的软件")
    ['安装', '装的', '的软', '软件', '装软']
    """
    about = subject(question)
    return list(dict.fromkeys([*terms(about), *terms(joined(about))]))


def joined(folded: str) -> str:
    """A folded text without the particle that Chinese may leave out."""
    return folded.replace(PARTICLE, "")


def words(folded: str, beginnings: tuple[str, ...] = ("",)) -> list[str]:
    """The terms of a folded text that are words, and begin so."""
    return [_stem(run) for run in _WORD.findall(folded) if run.startswith(beginnings)]


def is_cjk(term: str) -> bool:
    """Whether a term is made of characters rather than a word."""
    return _IS_CJK.match(term) is not None


def _stem(word: str) -> str:
    """English plurals and the third person lose their s; everything else stays."""
    if len(word) > 3 and word.isascii() and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-3] + "y" if word.endswith("ies") and len(word) > 4 else word[:-1]
    return word


def is_han(character: str) -> bool:
    """Whether this is a Chinese character."""
    return _HAN.match(character) is not None


def language_of(text: str) -> str:
    """ "zh" or "en" by script, "" where neither has a letter: a Chinese character weighs as much as a word.

    >>> language_of("如何安装 vim?"), language_of("What does 红楼梦 mean in English?"), language_of("42")
    ('zh', 'en', '')
    """
    han, words = len(_HAN.findall(text)), len(_LATIN.findall(text))
    if not han and not words:
        return ""
    return "zh" if han >= words else "en"
