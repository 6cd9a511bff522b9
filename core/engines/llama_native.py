"""llama.cpp through llama-cpp-python's low-level API: the library, weights and their tokenizer, typed.

Knows no contexts, no scheduling and no text rules. Several native calls end the process when fed wrongly, so what
reaches them is checked here or built so that it cannot be wrong.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import BadInput, BadModelFile, EngineUnavailable
from .base import Vocabulary
from .constraints import Tokens
from .llama_probe import amx_works

BATCH = 256
"""Most tokens of one forward pass on a CPU, n_batch and n_ubatch alike: a pass is never split behind our back.
Longer ones are not faster there, and a cancelled prompt stops between passes."""
GPU_BATCH = 512


def library() -> Any:
    """The module `llama_cpp`, quiet unless its user has configured its logger. Raises `EngineUnavailable`."""
    try:
        import llama_cpp
    except Exception as error:
        raise EngineUnavailable(
            f"llama-cpp-python cannot be loaded: {error}.",
            'Install it with a C compiler at hand: pip install "llama-cpp-python>=0.3.36".',
        ) from error
    logger = logging.getLogger("llama-cpp-python")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
    return llama_cpp


def physical_cores() -> int:
    """Physical cores that this process may use."""
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(psutil.cpu_count(logical=False) or allowed, allowed))


_errors = threading.local()
_log: list[Any] = []
"""Our callback and the one before it: native threads may hold them, so they live as long as the process."""


@contextmanager
def native_errors() -> Iterator[list[str]]:
    """Collects llama.cpp's error lines of this thread, while a model or a context is made."""
    _install_log()
    lines: list[str] = []
    _errors.lines = lines
    try:
        yield lines
    finally:
        _errors.lines = None


def _install_log() -> None:
    """Listen to llama.cpp's log, which is one for the whole process, once; what nobody collects goes on as before."""
    if _log:
        return
    L = library()
    before, data = L.llama_log_callback(), ctypes.c_void_p()
    L.llama_log_get(ctypes.byref(before), ctypes.byref(data))

    @L.llama_log_callback  # type: ignore[untyped-decorator, unused-ignore]
    def hear(level: int, text: bytes, _: Any) -> None:
        lines = getattr(_errors, "lines", None)
        if lines is None:
            before(level, text, data)
        elif level == 3:
            lines.append(text.decode("utf-8", "replace").strip())

    _log.extend((before, hear))
    L.llama_log_set(hear, ctypes.c_void_p())


class NativeWeights:
    """A loaded GGUF file with its tokenizer. Loading takes seconds for large files; `free` is the worker's to call."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int = -1,
        tensor_split: Sequence[float] | None = None,
        mmap: bool = True,
        mlock: bool = False,
        vocab_only: bool = False,
    ) -> None:
        self.L = L = library()
        self.path = path
        params = L.llama_model_default_params()
        params.vocab_only = vocab_only
        params.n_gpu_layers = gpu_layers if L.llama_supports_gpu_offload() else 0
        params.load_mode = (1 if mmap else 0) | (2 if mlock else 0)
        if tensor_split:
            if len(tensor_split) > L.llama_max_devices():
                raise BadInput(f"tensor_split names {len(tensor_split)} devices; at most {L.llama_max_devices()}.")
            split = (ctypes.c_float * L.llama_max_devices())(*tensor_split)
            params.tensor_split = split
        params.use_extra_bufts = vocab_only or amx_works()  # weights laid out for the processor
        L.llama_backend_init()
        with native_errors() as lines:
            self.handle = L.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            why = lines[0] if lines else "no reason given"
            raise BadModelFile(f"llama.cpp cannot load {path}: {why}.", "Check the file with `hanpaca verify`.")
        self._check_kind()
        self.vocab = L.llama_model_get_vocab(self.handle)
        self.size = int(L.llama_vocab_n_tokens(self.vocab))
        self.batch = GPU_BATCH if params.n_gpu_layers else BATCH
        self.vocabulary = self._vocabulary()
        self._pieces: dict[int, bytes] = {}

    def _check_kind(self) -> None:
        """Refuse what the rest would end the process with, or fail at."""
        L, why = self.L, ""
        if L.llama_vocab_type(L.llama_model_get_vocab(self.handle)) == L.LLAMA_VOCAB_TYPE_NONE:
            why = "it holds no tokenizer"
        elif L.llama_model_is_recurrent(self.handle) or L.llama_model_is_hybrid(self.handle):
            why = "its architecture keeps a recurrent state, which sequences that begin alike cannot share"
        if why:
            self.free()
            raise BadModelFile(f"{self.path} cannot be used: {why}.", "Use a model of the LLaMA kind.")

    def free(self) -> None:
        """Free the weights. Their contexts are closed already."""
        if self.handle:
            self.L.llama_model_free(self.handle)
            self.handle = None
            self.__dict__.pop("tokens", None)  # it refers back here

    def meta(self, key: str) -> str | None:
        """A metadata value as text."""
        size = 256
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self.L.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
            if length < 0:
                return None
            if length < size:
                return buffer.value.decode("utf-8", "replace")
            size = length + 1

    def head_size(self) -> int:
        """Dimensions of an attention head."""
        named = self.meta(f"{self.meta('general.architecture')}.attention.key_length")
        return int(named or self.L.llama_model_n_embd(self.handle) // max(self.L.llama_model_n_head(self.handle), 1))

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        data = text.encode("utf-8", "replace")
        room = len(data) + 16
        while True:
            ids = (ctypes.c_int32 * room)()
            count = self.L.llama_tokenize(self.vocab, data, len(data), ids, room, False, special)
            if count >= 0:
                return list(ids[:count])
            room = -count

    def token_bytes(self, token: int) -> bytes:
        piece = self._pieces.get(token)
        if piece is None:
            self.check([token])
            buffer = ctypes.create_string_buffer(256)
            length = self.L.llama_token_to_piece(self.vocab, token, buffer, 256, 0, False)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = self.L.llama_token_to_piece(self.vocab, token, buffer, -length, 0, False)
            piece = self._pieces[token] = buffer.raw[: max(length, 0)]
        return piece

    @cached_property
    def tokens(self) -> Tokens:
        """The vocabulary for what answers must match."""
        return Tokens(self.size, self.token_bytes, self.vocabulary.ends, lambda text: self.tokenize(text, special=True))

    def check(self, tokens: Sequence[int]) -> None:
        """Raise `BadInput` for an id that is not in the vocabulary: llama.cpp would end the process."""
        if tokens and not (min(tokens) >= 0 and max(tokens) < self.size):
            wrong = next(token for token in tokens if not 0 <= token < self.size)
            raise BadInput(f"Token id {wrong} is not in the vocabulary of {self.size}.", "Use this model's tokenizer.")

    def _vocabulary(self) -> Vocabulary:
        L = self.L
        ends = frozenset(t for t in range(self.size) if L.llama_vocab_is_eog(self.vocab, t))
        bos, eos = int(L.llama_vocab_bos(self.vocab)), int(L.llama_vocab_eos(self.vocab))
        add_bos = bool(L.llama_vocab_get_add_bos(self.vocab))
        return Vocabulary(self.size, bos if bos >= 0 else None, eos if eos >= 0 else None, ends, add_bos)
