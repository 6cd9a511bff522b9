"""The words of a Chinese question, by jieba, for libraries that ask for it: longer words are searched as a whole.

The index knows pairs of characters with their places, so a word of three characters and more is found in it as a
phrase of pairs: nothing is indexed twice, and a library can be searched with words or without. Knows no database.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

from ..core.errors import BadInput, EngineUnavailable
from .terms import fold, is_cjk

SEGMENTERS = ("jieba",)
SHORTEST = 3
"""A word of two characters is a pair already."""


def check_segmenter(name: str) -> None:
    """Raise `BadInput` for a name that is none, `EngineUnavailable` where its package is missing."""
    if name not in SEGMENTERS:
        raise BadInput(f"There is no segmenter {name!r}.", f"Valid: {', '.join(SEGMENTERS)}; or leave it out.")
    if find_spec(name) is None:
        raise EngineUnavailable(
            "Searching by words needs the package jieba.", 'Install it with: pip install "hanpaca[jieba]"'
        )


def words(text: str) -> list[str]:
    """A text cut into its words, spaces and marks included: joined they are the text. Needs jieba."""
    return _jieba()(text)


def long_words(text: str) -> list[str]:
    """The words of three characters and more, folded, each once, in their order."""
    found = words(fold(text))
    return list(dict.fromkeys(word for word in found if len(word) >= SHORTEST and all(map(is_cjk, word))))


@cache
def _jieba() -> Callable[[str], list[str]]:
    """jieba with its own dictionary, read anew: its cache would be a file in a folder where anyone may write."""
    import jieba

    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True

    def cut(text: str) -> list[str]:
        return list(tokenizer.cut(text))

    return cut
