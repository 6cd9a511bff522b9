"""`HanpacaEmbeddings`: the document search's embedder as a LangChain class. Translates types and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.embeddings import Embeddings
from pydantic import BaseModel, ConfigDict, PrivateAttr

from ...core.adapting import refuse_unknown
from ...rag.adapting import Opened, texts_of
from ...rag.embedding import BUNDLED, Embedder, load_embedder


class HanpacaEmbeddings(BaseModel, Embeddings):
    """Vectors of unit length for questions and passages, each with the prefix that the model was trained on."""

    model_config = ConfigDict(extra="forbid")

    model: str = BUNDLED
    """The bundled multilingual-e5-small, or any sentence-transformers model by name or folder."""

    _embedders: Opened[str, Embedder] = PrivateAttr(default_factory=Opened)
    """By the model's name."""

    def __init__(self, **values: Any) -> None:
        refuse_unknown(type(self).__name__, values, type(self).model_fields)
        super().__init__(**values)

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded at first use."""
        return self._embedders.get(self.model, lambda: load_embedder(self.model))

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per passage."""
        return [[float(number) for number in row] for row in self.embedder.embed_passages(texts_of(texts))]

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        return [float(number) for number in self.embedder.embed_queries(texts_of([text]))[0]]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` off the event loop."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` off the event loop."""
        return await asyncio.to_thread(self.embed_query, text)
