"""Embedding GGUF files: texts → unit vectors, in one short-lived context. Runs on the weights' worker thread."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from ..errors import ContextOverflow, EngineFailure
from .llama_native import NativeContext, NativeWeights


def embed(weights: NativeWeights, texts: Sequence[Sequence[int]], threads: int) -> list[list[float]]:
    """One vector of unit length per token list. Raises `ContextOverflow` for a text over the model's window."""
    window = int(weights.L.llama_model_n_ctx_train(weights.handle))
    longest = max((len(tokens) for tokens in texts), default=0)
    if longest > window:
        raise ContextOverflow(f"A text of {longest} tokens exceeds the model's window of {window}.", "Split it.")
    if not texts:
        return []
    context = NativeContext(
        weights, cells=max(longest, 512), rope={}, flash_attention=False, threads=threads, sequences=1,
        embeddings=True, batch=max(longest, 512),
    )  # fmt: skip
    try:
        return [_one(weights, context, tokens) for tokens in texts]
    finally:
        context.close()


def _one(weights: NativeWeights, context: NativeContext, tokens: Sequence[int]) -> list[float]:
    count = len(tokens)
    context.decode(tokens, range(count), [0] * count, [True] * count)
    pointer = weights.L.llama_get_embeddings_seq(context.handle, 0)
    address = ctypes.cast(pointer, ctypes.c_void_p).value
    if not address:
        raise EngineFailure(f"{weights.path.name} gave no embedding.", "Check that it is an embedding model.")
    width = weights.L.llama_model_n_embd(weights.handle)
    floats = memoryview((ctypes.c_float * width).from_address(address)).cast("B")
    vector = np.frombuffer(floats, dtype=np.float32).astype(np.float64)
    context.trim(0, 0)
    return [float(value) for value in vector / max(float(np.linalg.norm(vector)), 1e-12)]
