"""Text → vectors: the bundled multilingual-e5-small, and any sentence-transformers model.

Knows names, not networks: each kind of embedder lies in a module of its own, imported when it is first used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.forks import Home

BUNDLED = "multilingual-e5-small"
EMBEDDING_HOME = Home("an embedder or reranker")
"""OpenMP's threads stay behind in a fork, and whoever had some waits for them for ever."""


class Embedder(Protocol):
    """Vectors of unit length. Thread-safe."""

    @property
    def identity(self) -> str:
        """Model, revision, prefixes and normalisation in one line; libraries remember it."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    @property
    def max_tokens(self) -> int:
        """Longest text it sees whole, in its own tokens."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of a passage, specials and prefix included."""
        ...

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dimension)."""
        ...

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), dimension)."""
        ...


def load_embedder(name: str = BUNDLED) -> Embedder:
    """The bundled model by its name, or any sentence-transformers name or folder; weights load at first use.

    Raises `ModelNotFound` where the model is not on this machine; nothing is downloaded.
    """
    if name == BUNDLED:
        from .e5 import E5Embedder

        return E5Embedder()
    from .sentence_model import SentenceModel

    return SentenceModel(name)


def batches(texts: Sequence[str], sizes: Sequence[int], most: int) -> Iterator[list[str]]:
    """The texts in their order, in parts whose sizes add up to at most `most`, of at least one text.

    >>> list(batches(["a", "b", "c", "d"], [1, 2, 9, 1], 3))
    [['a', 'b'], ['c'], ['d']]
    """
    batch, held = list[str](), 0
    for text, size in zip(texts, sizes, strict=True):
        if batch and held + size > most:
            yield batch
            batch, held = [], 0
        batch.append(text)
        held += size
    if batch:
        yield batch
