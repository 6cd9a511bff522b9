"""`/v1/embeddings`: vectors of texts. Knows no route."""

from __future__ import annotations

import asyncio
import base64
from array import array
from collections.abc import Callable, Sequence
from typing import Any

from ...core.errors import BadInput, UnsupportedFeature
from ...rag.embedding import batches
from .openai_types import EmbeddingRequest
from .service import Service

BATCH = 4096
"""Tokens computed between two looks at whether the client is still there; at least one text."""
MOST_TOKENS = 8192
"""Of one text, as with OpenAI."""

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]


async def embedded(service: Service, asked: EmbeddingRequest) -> dict[str, Any]:
    """The reply. Raises `BadInput` for what is no text, `NotHere` for a model that is not served."""
    texts = _texts(asked)
    embed, count, name = await _embedding(service, asked)
    counts = await asyncio.to_thread(lambda: [count(text) for text in texts])
    if max(counts) > MOST_TOKENS:
        number = counts.index(max(counts))
        raise BadInput(
            f"Text {number} to embed has {counts[number]:,} tokens; at most {MOST_TOKENS:,} are read.", "Split it."
        )
    vectors: list[Sequence[float]] = []
    for batch in batches(texts, counts, BATCH):
        vectors += await asyncio.to_thread(embed, batch)
    if asked.dimensions not in (None, len(vectors[0])):
        raise UnsupportedFeature(
            f"{name} gives vectors of {len(vectors[0])} numbers.", "Leave dimensions out, or ask for that many."
        )
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, asked.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    return {"object": "list", "data": data, "model": name, "usage": usage}


async def _embedding(service: Service, asked: EmbeddingRequest) -> tuple[Embed, Callable[[str], int], str]:
    if asked.model in (None, service.embedder_name):
        embedder = await asyncio.to_thread(service.embedder)

        def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
            made = embedder.embed_queries if asked.input_type == "query" else embedder.embed_passages
            return [[float(value) for value in row] for row in made(texts)]

        return embed, embedder.count_tokens, service.embedder_name
    model = await service.loaded_model(asked.model)
    return model.embed, lambda text: len(model.prompt_tokens(text)), service.names[0]


def _texts(asked: EmbeddingRequest) -> list[str]:
    given = [asked.input] if isinstance(asked.input, str) else list(asked.input)
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) < len(given) or not texts:
        raise UnsupportedFeature("Embeddings are made of texts, not of token ids.", "Send a text, or a list of texts.")
    if any(not text.strip() for text in texts):
        raise BadInput("A text to embed is empty.", "Leave it out.")
    return texts


def _encoded(vector: Sequence[float], form: str | None) -> Any:
    if form != "base64":
        return list(vector)
    return base64.b64encode(array("f", vector).tobytes()).decode()
