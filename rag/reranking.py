"""A cross-encoder orders the best passages anew: it reads the question and a passage together. Off unless asked for.

It takes far longer than the rest of a search, and is worth it where a library holds many similar passages. Any
sentence-transformers cross-encoder with one score will do, from a folder or the local Hugging Face cache. Knows no
library and no ranking but its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib.util import find_spec
from threading import RLock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..core.errors import BadInput, BadModelFile, EngineUnavailable
from .embedding import EMBEDDING_HOME
from .sentence_model import find_folder, no_progress_bar

RERANKED = 20
"""How many of the first passages it reads; more where more are wanted."""


class Reranker(Protocol):
    """How well each text answers the question; thread-safe."""

    def score(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts),), larger is better; comparable within one call only."""
        ...


class CrossEncoderReranker:
    """A sentence-transformers cross-encoder; its files are found at once, its weights load at first use.

    Raises `ModelNotFound` where there is no such folder and nothing of that name in the local cache.
    """

    def __init__(self, name: str) -> None:
        if find_spec("sentence_transformers") is None:
            raise EngineUnavailable(
                f"The reranker {name} needs the package sentence-transformers.",
                'Install it with: pip install "hanpaca[sentence-transformers]".',
            )
        self._name = name
        self._folder, _ = find_folder(name, "reranker", "or leave the reranker out")
        self._lock = RLock()

    def score(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """(len(texts),). Raises `BadModelFile` for a model that cannot be loaded or gives more than one score."""
        EMBEDDING_HOME.enter()
        if not texts:
            return np.zeros(0, np.float32)
        with self._lock:
            pairs = [(question, text) for text in texts]
            found = self._model.predict(pairs, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(found, np.float32)

    @cached_property
    def _model(self) -> Any:
        from sentence_transformers import CrossEncoder

        with no_progress_bar():
            try:
                model = CrossEncoder(str(self._folder), local_files_only=True, trust_remote_code=False)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise BadModelFile(
                    f"The reranker {self._name} cannot be loaded: {error}.",
                    "Give the folder of a sentence-transformers cross-encoder.",
                ) from error
        if model.num_labels != 1:
            raise BadModelFile(
                f"The model {self._name} gives {model.num_labels} scores, a reranker gives one.",
                "Give a cross-encoder for ranking, such as BAAI/bge-reranker-base.",
            )
        return model


@lru_cache(maxsize=2)
def load_reranker(name: str) -> Reranker:
    """A reranker by a sentence-transformers name or folder; the last two stay loaded."""
    if not name.strip():
        raise BadInput("The name of the reranker is empty.", "Name a cross-encoder, or leave the option out.")
    return CrossEncoderReranker(name)
