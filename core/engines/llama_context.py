"""A llama.cpp context over shared weights: its cache cells, forward passes and logits, typed.

Knows no scheduling. Several native calls end the process when fed wrongly (a batch over n_batch, an index without
logits, partial copies without unified cells), so what reaches them is checked here or built so that it cannot be wrong.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineFailure
from .llama_native import NativeWeights, native_errors, physical_cores

KV_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}
"""Cache types by ggml number; both keys and values."""
TILE = 64
"""Tokens that llama.cpp's flash attention on a CPU takes at once (`GGML_FA_TILE_Q`), with keys and values in floats."""
NARROW_DEPTH = 2560
"""Tokens after which heads of fewer than 128 dimensions gain a fifth by whole tiles, and a pass takes twice as long."""
OUTPUTS = 128
"""Most rows of logits of one forward pass; more only reserves memory."""


class NativeContext:
    """A context over shared weights: cache cells and forward passes. A `jobs.Decoder`.

    One thread only, and one in which PyTorch does not compute: llama.cpp sets up a thread's AMX tiles once, and dies
    when another library has changed them.
    """

    def __init__(
        self,
        weights: NativeWeights,
        *,
        cells: int,
        rope: Mapping[str, float | int],
        kv_type: str = "f16",
        flash_attention: bool = True,
        threads: int | None = None,
        sequences: int = 128,
        loras: Sequence[tuple[Any, float]] = (),
        embeddings: bool = False,
        batch: int | None = None,
        watch: Any = None,
    ) -> None:
        self.L = L = weights.L
        self.weights = weights
        params = L.llama_context_default_params()
        params.n_ctx = -(-cells // 256) * 256
        params.n_batch = params.n_ubatch = min(batch or weights.batch, params.n_ctx)
        params.n_seq_max = sequences + 1  # one more for `save` and `restore`
        params.n_outputs_max = params.n_batch if embeddings else min(max(OUTPUTS, sequences + 1), params.n_batch)
        params.n_outputs_max_per_seq = 0
        params.n_threads = params.n_threads_batch = threads or physical_cores()
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.flash_attn_type = int(flash_attention)
        params.kv_unified = True
        params.embeddings = embeddings
        if watch is not None:
            params.cb_eval = self._watch = watch  # native code holds it as long as the context lives
        for name, value in rope.items():
            setattr(params, name, value)
        with native_errors() as lines:
            self.handle = L.llama_init_from_model(weights.handle, params)
            if self.handle and loras:
                self._set_loras(loras)
        if not self.handle:
            raise EngineFailure(
                f"llama.cpp cannot open a context of {cells} cells: {lines[0] if lines else 'no reason given'}.",
                "Ask for a shorter context, a smaller KV type such as q8_0, or free some memory.",
            )
        self.memory = L.llama_get_memory(self.handle)
        self.cells = int(params.n_ctx)
        self.batch = int(params.n_batch)
        self.outputs = int(params.n_outputs_max)
        self.sequences = sequences
        self.tile = TILE if flash_attention and kv_type in ("f16", "f32") else 1
        self.tile_depth = self.cells if weights.head_size() >= 128 else NARROW_DEPTH
        self._make_batch()

    def _set_loras(self, loras: Sequence[tuple[Any, float]]) -> None:
        adapters = (self.L.llama_adapter_lora_p_ctypes * len(loras))(*(handle for handle, _ in loras))
        scales = (ctypes.c_float * len(loras))(*(scale for _, scale in loras))
        if self.L.llama_set_adapters_lora(self.handle, adapters, len(loras), scales):
            self.close()
            raise EngineFailure("llama.cpp cannot use the LoRA adapters together.", "Merge them: hanpaca merge.")

    def _make_batch(self) -> None:
        """One batch over numpy arrays, filled anew for each pass."""
        size = self.batch
        self._token, self._pos = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._counts, self._ids = np.ones(size, np.int32), np.zeros(size, np.int32)
        self._outputs = np.zeros(size, np.int8)
        step = self._ids.itemsize
        self._id_pointers = np.array([self._ids.ctypes.data + i * step for i in range(size)], np.uintp)
        batch = self.L.llama_batch()
        int32 = ctypes.POINTER(ctypes.c_int32)
        batch.token = self._token.ctypes.data_as(int32)
        batch.pos = self._pos.ctypes.data_as(int32)
        batch.n_seq_id = self._counts.ctypes.data_as(int32)
        batch.seq_id = self._id_pointers.ctypes.data_as(ctypes.POINTER(int32))
        batch.logits = self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self._batch = batch

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], outputs: Sequence[bool]
    ) -> None:
        """One forward pass; afterwards `logits(row)` is there for the rows with an output."""
        count = len(tokens)
        if not 0 < count <= self.batch:
            raise EngineFailure(f"A pass of {count} tokens was asked for; 1 to {self.batch} are possible.")
        self._token[:count], self._pos[:count] = tokens, positions
        self._ids[:count], self._outputs[:count] = sequences, outputs
        self._batch.n_tokens = count
        status = self.L.llama_decode(self.handle, self._batch)
        if status:
            raise EngineFailure(
                f"llama_decode failed with status {status} on {count} tokens.",
                "Try again; if it persists, load the model with a smaller context.",
            )

    def copy(self, source: int, target: int, length: int) -> None:
        self.L.llama_memory_seq_cp(self.memory, source, target, 0, length)

    def trim(self, sequence: int, length: int) -> None:
        if self.memory:  # encoders keep no cache
            self.L.llama_memory_seq_rm(self.memory, sequence, length, -1)

    def saved_size(self, sequence: int) -> int:
        return int(self.L.llama_state_seq_get_size(self.handle, sequence))

    def save(self, sequence: int, start: int, stop: int) -> NDArray[np.uint8]:
        spare = self.sequences
        try:
            self.L.llama_memory_seq_cp(self.memory, sequence, spare, start, stop)
            state = np.empty(self.saved_size(spare), np.uint8)
            pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            written = self.L.llama_state_seq_get_data(self.handle, pointer, state.size, spare)
        finally:
            self.trim(spare, 0)
        return state[:written]

    def restore(self, sequence: int, pieces: Sequence[NDArray[np.uint8]]) -> bool:
        spare = self.sequences
        for piece in pieces:
            pointer = piece.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            done = piece.size and self.L.llama_state_seq_set_data(self.handle, pointer, piece.size, spare)
            if done:
                self.L.llama_memory_seq_cp(self.memory, spare, sequence, 0, -1)
            self.trim(spare, 0)
            if not done:
                self.trim(sequence, 0)
                return False
        return True

    def logits(self, row: int) -> NDArray[np.float32]:
        """The row's logits, (vocabulary,), as a view that the next pass overwrites."""
        if not self._outputs[row]:
            raise EngineFailure(f"Row {row} of the last pass has no logits.")
        pointer = self.L.llama_get_logits_ith(self.handle, row)
        address = ctypes.cast(pointer, ctypes.c_void_p).value
        if not address:
            raise EngineFailure(f"Row {row} of the last pass has no logits.")
        floats = memoryview((ctypes.c_float * self.weights.size).from_address(address)).cast("B")
        return np.frombuffer(floats, dtype=np.float32)

    def close(self) -> None:
        if self.handle:
            self.L.llama_free(self.handle)
            self.handle = None
