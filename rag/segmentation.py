"""Chinese words, by jieba: libraries that ask for it search longer ones as a whole, and a reader cuts none in two.

The index knows pairs of characters with their places, so a word of three characters and more is found in it as a
phrase of pairs: nothing is indexed twice, and a library can be searched with words or without. Knows no database.
"""

from __future__ import annotations

import threading
import warnings
from functools import cache
from importlib.util import find_spec
from typing import Any

from ..core.errors import BadInput, EngineUnavailable
from .terms import fold, is_cjk

SEGMENTERS = ("jieba",)
SHORTEST = 3
"""A word of two characters is a pair already."""
_loading = threading.Lock()


def check_segmenter(name: str) -> None:
    """Raise `BadInput` for a name that is none, `EngineUnavailable` where its package is missing."""
    if name not in SEGMENTERS:
        raise BadInput(f"There is no segmenter {name!r}.", f"Valid: {', '.join(SEGMENTERS)}; or leave it out.")
    if find_spec(name) is None:
        raise EngineUnavailable(
            "Searching by words needs the package jieba.", 'Install it with: pip install "hanpaca[jieba]"'
        )


def known_words(text: str) -> list[str]:
    """A text cut into words of jieba's dictionary and single characters, spaces and marks included. Needs jieba."""
    return list(_jieba().cut(text, HMM=False))


def long_words(text: str) -> list[str]:
    """The words of three characters and more, folded, each once, in their order."""
    found = _jieba().cut(fold(text))
    return list(dict.fromkeys(word for word in found if len(word) >= SHORTEST and all(map(is_cjk, word))))


def _jieba() -> Any:
    with _loading:  # of threads that ask at once, one reads the dictionary
        return _tokenizer()


@cache
def _tokenizer() -> Any:
    """jieba with its own dictionary, read anew: its cache would be a file in a folder where anyone may write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of its old regular expressions
        import jieba

    tokenizer = jieba.Tokenizer()
    tokenizer.FREQ, tokenizer.total = tokenizer.gen_pfdict(tokenizer.get_dict_file())
    tokenizer.initialized = True
    return tokenizer
