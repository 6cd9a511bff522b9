"""One set of GGUF weights in this process: its worker thread, its contexts, and who uses it.

Knows which contexts are open and what memory they take; not what the jobs in them do.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..errors import BadModelFile, EngineFailure, HanpacaError, UnsupportedFeature
from ..rope import RopePlan
from .batching import Scheduler
from .jobs import Job
from .llama_native import KV_TYPES, NativeContext, NativeWeights
from .worker import Worker, closed

MOST_CELLS = 16_384
"""Cells beyond one context's length, kept for more requests and their prefixes, where memory is plentiful."""
MOST_SHELVED = 2 << 30
"""Bytes of host memory for finished sequences of one context, where a tenth of what is free is more than that."""
_BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q4_0": 4.5}
assert _BITS.keys() == KV_TYPES.keys()


@dataclass(frozen=True)
class ContextKey:
    """What contexts differ in."""

    plan: RopePlan
    loras: tuple[tuple[str, float], ...]
    kv_type: str
    flash_attention: bool
    cells: int | None
    threads: int
    running: int
    prefix_memory: int | None


class SharedWeights:
    """Weights with their worker. `acquire` and `release` count the engines over them."""

    _registry: ClassVar[dict[Any, SharedWeights]] = {}
    _registry_lock: ClassVar[Any] = threading.RLock()  # a finalizer may come in between

    @classmethod
    def acquire(cls, path: Path, **options: Any) -> SharedWeights:
        """The weights of a file, loaded if they are not. Blocks while they load."""
        stat = path.stat()
        key = (os.getpid(), path.resolve(), stat.st_size, stat.st_mtime_ns, tuple(sorted(options.items())))
        with cls._registry_lock:
            shared = cls._registry.get(key)
            if shared is None:
                shared = cls._registry[key] = cls(key, path, options)
            shared._engines += 1
            return shared

    def __init__(self, key: Any, path: Path, options: dict[str, Any]) -> None:
        self._key = key
        self._engines = 0
        self._worker = Worker(f"hanpaca {path.name}")
        self._contexts: dict[ContextKey, tuple[NativeContext, Scheduler]] = {}
        self._loras: dict[str, Any] = {}
        self._arriving = 0
        self._lock = threading.Lock()
        try:
            self.native = self._worker.call(lambda: NativeWeights(path, **options))
        except BaseException:
            self._worker.stop()
            raise

    def release(self, owner: object) -> None:
        """One engine less: its jobs end with `Closed`, and the last one frees the weights."""
        with self._registry_lock:
            self._engines -= 1
            last = self._engines == 0
            if last:
                self._registry.pop(self._key, None)
        if last:
            self._worker.stop(self._free)
        else:
            self._worker.post(lambda: self._abandon(owner))

    # -- jobs ----------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Jobs not admitted yet, in all contexts."""
        return self._arriving + sum(scheduler.waiting for _, scheduler in list(self._contexts.values()))

    @property
    def computed(self) -> int:
        """Tokens decoded so far, in the contexts that are open."""
        return sum(scheduler.computed for _, scheduler in list(self._contexts.values()))

    def submit(self, key: ContextKey, job: Job) -> None:
        """Queue a job; its context is opened on the worker thread if it is not there."""
        with self._lock:
            found = self._contexts.get(key)
            if found is not None:
                job.decoder = found[0]
                found[1].submit(job)
            else:
                self._arriving += 1
        if found is not None:
            self._worker.notify()
        else:
            self._worker.post(lambda: self._open_for(key, job))

    def _open_for(self, key: ContextKey, job: Job) -> None:
        with self._lock:
            self._arriving -= 1
        try:
            context, scheduler = self._contexts.get(key) or self._open(key)
            job.decoder = context
            scheduler.submit(job)
        except Exception as error:
            known = error if isinstance(error, HanpacaError) else EngineFailure(f"The context failed: {error!r}.")
            job.fail(known)
            job.released()

    def _abandon(self, owner: object) -> None:
        for _, scheduler in self._contexts.values():
            scheduler.abandon(closed(), owner)

    # -- contexts, all on the worker thread ------------------------------------------------------------------------

    def _open(self, key: ContextKey) -> tuple[NativeContext, Scheduler]:
        cells = key.cells or self._choose_cells(key)
        self._make_room(max(cells, key.plan.context) * self.cell_bytes(key.kv_type))
        context = NativeContext(
            self.native,
            cells=max(cells, key.plan.context),
            rope=key.plan.llama_cpp(),
            kv_type=key.kv_type,
            flash_attention=key.flash_attention,
            threads=key.threads,
            sequences=min(2 * key.running, 256),
            loras=[(self._lora(path), scale) for path, scale in key.loras],
        )
        shelf = int(min(_free_memory() * 0.1, MOST_SHELVED)) if key.prefix_memory is None else key.prefix_memory
        scheduler = Scheduler(context, running=key.running, idle=self._idle_cells(), shelf=shelf)
        with self._lock:
            self._contexts[key] = context, scheduler
        self._worker.add(scheduler)
        return context, scheduler

    def _choose_cells(self, key: ContextKey) -> int:
        context = key.plan.context
        affordable = int(_free_memory() * 0.3 / self.cell_bytes(key.kv_type))
        return max(context, min(4 * context, MOST_CELLS, affordable))

    def _make_room(self, size: float) -> None:
        """Close idle contexts, least recently used first, while memory is short."""
        for key in sorted(self._contexts, key=lambda key: self._contexts[key][1].last_used):
            if size < _free_memory() * 0.9:
                return
            with self._lock:
                context, scheduler = self._contexts[key]
                if scheduler.busy:
                    continue
                del self._contexts[key]
            self._worker.remove(scheduler)
            context.close()

    def _lora(self, path: str) -> Any:
        if path not in self._loras:
            from .llama_native import native_errors

            with native_errors() as lines:
                handle = self.native.L.llama_adapter_lora_init(self.native.handle, os.fsencode(path))
            if not handle:
                raise BadModelFile(
                    f"llama.cpp cannot load the LoRA adapter {path}: {lines[0] if lines else 'no reason given'}.",
                    "It must be a GGUF adapter made for this very model.",
                )
            self._loras[path] = handle
        return self._loras[path]

    def _free(self) -> None:
        for context, _ in self._contexts.values():
            context.close()
        self._contexts.clear()
        self.native.free()

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
        affordable = int(_free_memory() * 0.5 / self.cell_bytes(kv_type)) // 256 * 256
        return min(native_context, max(affordable, 512))

    # -- embeddings ----------------------------------------------------------------------------------------------

    def embed(self, texts: Sequence[Sequence[int]], *, threads: int) -> list[list[float]]:
        """One unit vector per text, by the pooling that the file names."""
        from .llama_embedding import embed

        pooling = (self.native.meta(f"{self.native.meta('general.architecture')}.pooling_type") or "0").strip()
        if pooling == "0":
            raise UnsupportedFeature(
                f"{self.native.path.name} is not an embedding model: its file names no pooling.",
                "Use an embedding GGUF, or one of hanpaca.rag's embedders.",
            )
        return self._worker.call(lambda: embed(self.native, texts, threads))


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)
