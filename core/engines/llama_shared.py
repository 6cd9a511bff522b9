"""One set of GGUF weights in this process: its contexts, and what memory they take.

Knows what contexts differ in and how large they may be; not what the jobs in them do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import BadModelFile, UnsupportedFeature
from ..memory import available
from ..rope import RopePlan
from .batching import Scheduler
from .llama_context import KV_TYPES, NativeContext
from .llama_embedding import Embedder
from .llama_native import NativeWeights, native_errors
from .shared import Shared

MOST_CELLS = 16_384
"""Cells beyond one context's length, kept for more requests and their prefixes, where memory is plentiful."""
MOST_SHELVED = 2 << 30
"""Bytes of host memory for finished sequences of one context, where a tenth of what is free is more than that."""
_BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5}
assert _BITS.keys() == KV_TYPES.keys()

Stamp = tuple[str, int, int]
"""A file's path, size and time of change: another content is another stamp."""


@dataclass(frozen=True)
class ContextKey:
    """What contexts differ in."""

    plan: RopePlan
    loras: tuple[tuple[Stamp, float], ...]
    kv_type: str
    flash_attention: bool
    cells: int | None
    threads: int
    running: int
    prefix_memory: int | None


class SharedWeights(Shared[ContextKey, NativeContext]):
    """A loaded GGUF file."""

    native: NativeWeights

    @classmethod
    def of(cls, path: Path, **options: Any) -> SharedWeights:
        """The weights of a file, loaded if they are not. Blocks while they load."""
        key = (stamp(path), tuple(sorted(options.items())))
        return cls.acquire(key, lambda: cls(path, options))

    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        self._path, self._options = path, options
        self._loras: dict[Stamp, Any] = {}
        self._embedder: Embedder | None = None
        super().__init__(f"hanpaca {path.name}")

    # -- contexts, all on the worker thread ------------------------------------------------------------------------

    def _load(self) -> None:
        self.native = native = NativeWeights(self._path, **self._options)
        pooling = native.meta(f"{native.meta('general.architecture')}.pooling_type") or "0"
        self.embeds = pooling.strip() != "0"
        """Whether the file names a pooling: then it makes embeddings, and no text."""

    def _free(self) -> None:
        if self._embedder is not None:
            self._embedder.close()
        if hasattr(self, "native"):
            self.native.free()

    def _open(self, key: ContextKey) -> tuple[NativeContext, Scheduler]:
        cells = max(key.cells or self._choose_cells(key), key.plan.context)
        self._make_room(cells * self.cell_bytes(key.kv_type))
        context = NativeContext(
            self.native,
            cells=cells,
            rope=key.plan.llama_cpp(),
            kv_type=key.kv_type,
            flash_attention=key.flash_attention,
            threads=key.threads,
            sequences=min(2 * key.running, 255),
            loras=[(self._lora(adapter), scale) for adapter, scale in key.loras],
        )
        shelf = int(min(available() * 0.1, MOST_SHELVED)) if key.prefix_memory is None else key.prefix_memory
        return context, Scheduler(context, running=key.running, idle=self._idle_cells(), shelf=shelf)

    def _close_context(self, context: NativeContext) -> None:
        context.close()

    def _choose_cells(self, key: ContextKey) -> int:
        context = key.plan.context
        affordable = int(available() * 0.3 / self.cell_bytes(key.kv_type))
        return max(context, min(4 * context, MOST_CELLS, affordable))

    def _make_room(self, size: float) -> None:
        """Close idle contexts, least recently used first, while memory is short."""
        for key in sorted(self._contexts, key=lambda key: self._contexts[key][1].last_used):
            if size < available() * 0.9:
                return
            self._close(key)

    def _lora(self, adapter: Stamp) -> Any:
        if adapter not in self._loras:
            path = adapter[0]
            with native_errors() as lines:
                handle = self.native.L.llama_adapter_lora_init(self.native.handle, os.fsencode(path))
            if not handle:
                raise BadModelFile(
                    f"llama.cpp cannot load the LoRA adapter {path}: {lines[0] if lines else 'no reason given'}.",
                    "It must be a GGUF adapter made for this very model.",
                )
            self._loras[adapter] = handle
        return self._loras[adapter]

    # -- arithmetic ----------------------------------------------------------------------------------------------

    def cell_bytes(self, kv_type: str) -> float:
        """Bytes of one cache cell: keys and values of one token in every layer."""
        L, handle = self.native.L, self.native.handle
        heads = L.llama_model_n_head(handle) or 1
        width = L.llama_model_n_embd(handle) / heads * (L.llama_model_n_head_kv(handle) or heads)
        return float(2 * L.llama_model_n_layer(handle) * width * _BITS[kv_type] / 8)

    def _idle_cells(self) -> int:
        """Idle cells that slow a pass by about 2 %: looking past one costs some 3 ns for each head of each layer, and
        the pass reads all weights at some 20 GB/s (both measured). So few that nothing useful fits count as none."""
        L, handle = self.native.L, self.native.handle
        heads = L.llama_model_n_head(handle) * L.llama_model_n_layer(handle)
        cells = int(L.llama_model_size(handle) / max(heads, 1) / 1500)
        return cells if cells >= 1024 else 0

    def fitting_context(self, native_context: int, kv_type: str) -> int:
        """The native window, or as much of it as half of the free memory holds (a multiple of 256, at least 512)."""
        affordable = int(available() * 0.5 / self.cell_bytes(kv_type)) // 256 * 256
        return min(native_context, max(affordable, 512))

    # -- embeddings ----------------------------------------------------------------------------------------------

    def embed(self, tokens: Sequence[int], *, threads: int) -> list[float]:
        """A text's unit vector, by the pooling that the file names."""
        if not self.embeds:
            raise UnsupportedFeature(
                f"{self.native.path.name} is not an embedding model: its file names no pooling.",
                "Use an embedding GGUF, or one of hanpaca.rag's embedders.",
            )
        return self._worker.call(partial(self._embed, tokens, threads))

    def _embed(self, tokens: Sequence[int], threads: int) -> list[float]:
        if self._embedder is None:
            self._embedder = Embedder(self.native)
        return self._embedder.vector(tokens, threads)


def stamp(path: Path) -> Stamp:
    """What tells a file from another, and from itself once it has changed."""
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns
