"""`HanpacaEmbeddings`: the document search's embedder as a LangChain class. Translates types and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, PrivateAttr

from ...core.adapting import refuse_unknown
from ...rag.embedding import BUNDLED, Embedder, load_embedder


class HanpacaEmbeddings(BaseModel, Embeddings):
    """Vectors of unit length for questions and passages, each with the prefix that the model was trained on."""

    model_config = ConfigDict(extra="forbid")

    model: str = BUNDLED
    """The bundled multilingual-e5-small, or any sentence-transformers model by name or folder."""

    _embedder: tuple[str, Embedder] | None = PrivateAttr(default=None)
    """The model's name, and the model."""

    def __init__(self, **values: Any) -> None:
        refuse_unknown(type(self).__name__, values, type(self).model_fields)
        super().__init__(**values)

    def __getstate__(self) -> dict[Any, Any]:
        """Everything but the loaded model: a copy in another process loads its own."""
        return {**super().__getstate__(), "__pydantic_private__": {"_embedder": None}}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that shares the loaded model, which nothing changes."""
        memo = {} if memo is None else memo
        memo[id(self._embedder)] = self._embedder
        return super().__deepcopy__(memo)

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded at first use."""
        loaded = self._embedder
        if loaded is None or loaded[0] != self.model:
            loaded = self._embedder = (self.model, load_embedder(self.model))
        return loaded[1]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per passage."""
        return [[float(number) for number in row] for row in self.embedder.embed_passages(texts)]

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return [float(number) for number in self.embedder.embed_queries([text])[0]]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` off the event loop."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` off the event loop."""
        return await asyncio.to_thread(self.embed_query, text)
