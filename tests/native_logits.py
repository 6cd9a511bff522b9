"""Logits straight from llama.cpp, for comparing: F32 cache, flash attention off, no engine of ours in between."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 512


class Native:
    """A GGUF file in a context of its own."""

    def __init__(self, path: Path, context: int, **fields: Any) -> None:
        import llama_cpp

        self.L = L = llama_cpp
        logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL)
        L.llama_backend_init()
        # llama.cpp sets up a thread's AMX tiles once, and PyTorch, which tests call in this thread, changes them.
        settings = L.llama_model_default_params()
        settings.use_extra_bufts = False
        self.model = L.llama_model_load_from_file(str(path).encode(), settings)
        assert self.model, f"llama.cpp cannot load {path}"
        params = L.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, CHUNK, CHUNK
        params.n_outputs_max = CHUNK
        params.type_k = params.type_v = 0
        params.flash_attn_type = 0
        params.n_threads = params.n_threads_batch = 2
        for name, value in fields.items():
            setattr(params, name, value)
        self.context = L.llama_init_from_model(self.model, params)
        assert self.context
        self.vocab = L.llama_model_get_vocab(self.model)
        self.size = L.llama_vocab_n_tokens(self.vocab)

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        ids = (ctypes.c_int32 * (len(data) + 16))()
        return list(ids[: self.L.llama_tokenize(self.vocab, data, len(data), ids, len(ids), False, False)])

    def logits(self, tokens: Sequence[int], start: int = 0) -> np.ndarray:
        """Logits of each of `tokens` (at most `CHUNK`), which continue what was computed before: (n, vocabulary)."""
        L, count = self.L, len(tokens)
        batch = L.llama_batch_init(count, 0, 1)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, start + i, 1, True
            batch.seq_id[i][0] = 0
        batch.n_tokens = count
        assert L.llama_decode(self.context, batch) == 0
        L.llama_batch_free(batch)
        found = np.ctypeslib.as_array(L.llama_get_logits(self.context), shape=(count, self.size))
        return found.copy()

    def chunks(self, tokens: Sequence[int]) -> Iterator[np.ndarray]:
        """Logits of a whole text, a chunk at a time."""
        for start in range(0, len(tokens), CHUNK):
            yield self.logits(tokens[start : start + CHUNK], start)


@contextmanager
def native(path: Path, context: int, **fields: Any) -> Iterator[Native]:
    """A `Native` that is freed."""
    found = Native(path, context, **fields)
    try:
        yield found
    finally:
        found.L.llama_free(found.context)
        found.L.llama_model_free(found.model)


def distance(found: np.ndarray, reference: np.ndarray) -> float:
    """max|Δ| / max|reference|."""
    return float(np.abs(found - reference).max() / np.abs(reference).max())
