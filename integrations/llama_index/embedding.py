"""`HanpacaEmbedding`: the document search's embedder as a LlamaIndex class. Translates types and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import ConfigDict, Field, PrivateAttr

from ...core.adapting import refuse_unknown
from ...rag.adapting import Opened, texts_of
from ...rag.embedding import BUNDLED, Embedder, load_embedder
from .pickling import state_of


class HanpacaEmbedding(BaseEmbedding):
    """Vectors of unit length for questions and passages, each with the prefix that the model was trained on."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    model_name: str = Field(default=BUNDLED)
    """The bundled multilingual-e5-small, or any sentence-transformers model by name or folder."""

    _embedders: Opened[str, Embedder] = PrivateAttr(default_factory=Opened)
    """By the model's name."""

    def __init__(self, **values: Any) -> None:
        refuse_unknown(type(self).__name__, values, type(self).model_fields)
        super().__init__(**values)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the loaded model: a copy in another process loads its own."""
        return state_of(self, {"_embedders": Opened()})

    @classmethod
    def class_name(cls) -> str:
        """The name in serialized objects."""
        return "HanpacaEmbedding"

    @property
    def embedder(self) -> Embedder:
        """The embedder, loaded at first use."""
        return self._embedders.get(self.model_name, lambda: load_embedder(self.model_name))

    def _get_query_embedding(self, query: str) -> list[float]:
        return [float(number) for number in self.embedder.embed_queries(texts_of([query]))[0]]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return [[float(number) for number in row] for row in self.embedder.embed_passages(texts_of(texts))]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
