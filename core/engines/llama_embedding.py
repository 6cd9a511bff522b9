"""Embedding GGUF files: a text → a unit vector, in a context of its own. Runs on the weights' worker thread."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from ..errors import ContextOverflow, EngineFailure
from .llama_context import NativeContext
from .llama_native import NativeWeights


class Embedder:
    """Keeps its context, which grows with the longest text seen."""

    def __init__(self, weights: NativeWeights) -> None:
        self._weights = weights
        self._threads = 0
        self._window = int(weights.L.llama_model_n_ctx_train(weights.handle))
        self._width = int(weights.L.llama_model_n_embd(weights.handle))
        self._context: NativeContext | None = None

    def vector(self, tokens: Sequence[int], threads: int) -> list[float]:
        """A text's vector of unit length. Raises `ContextOverflow` for a text over the model's window."""
        count = len(tokens)
        if count > self._window:
            raise ContextOverflow(
                f"A text of {count} tokens exceeds the model's window of {self._window}.", "Split it."
            )
        context = self._context_for(count, threads)
        try:
            return self._read(context, tokens)
        finally:
            context.trim(0, 0)

    def _read(self, context: NativeContext, tokens: Sequence[int]) -> list[float]:
        count = len(tokens)
        context.decode(tokens, range(count), [0] * count, [True] * count)
        pointer = context.L.llama_get_embeddings_seq(context.handle, 0)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if not address:
            raise EngineFailure(f"{self._weights.path.name} gave no embedding.", "Check that it is an embedding model.")
        floats = memoryview((ctypes.c_float * self._width).from_address(address)).cast("B")
        vector = np.frombuffer(floats, dtype=np.float32).astype(np.float64)
        return [float(value) for value in vector / max(float(np.linalg.norm(vector)), 1e-12)]

    def close(self) -> None:
        """Free the context."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def _context_for(self, count: int, threads: int) -> NativeContext:
        if self._context is None or self._context.batch < count or self._threads != threads:
            self.close()
            self._threads = threads
            size = max(512, 1 << (count - 1).bit_length())
            self._context = NativeContext(
                self._weights, cells=size, rope={}, flash_attention=False, threads=self._threads, sequences=1,
                embeddings=True, batch=size,
            )  # fmt: skip
        return self._context
