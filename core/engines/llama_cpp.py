"""GGUF models through llama.cpp: shared weights, a context per RoPE plan, continuous batching.

Knows what a request needs of llama.cpp; what it has in common with other engines is in `local.py`, the scheduling in
`batching.py`, ctypes in `llama_native.py` and `llama_context.py`, sampling in `llama_sampling.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadInput, UnsupportedFeature
from ..rope import Choice, Rope, RopePlan, check_extension
from .base import Request
from .llama_context import KV_TYPES
from .llama_native import physical_cores
from .llama_sampling import Sampler
from .llama_shared import ContextKey, SharedWeights, stamp
from .local import LocalEngine, adapters_of, check_alpha, check_switches, check_whole_numbers
from .lookup import MOST_GUESSED

if TYPE_CHECKING:
    from ..catalog import ModelSource

MOST_TOKENS = 2**24
"""Longest context that can be asked for: cells are counted in memory."""


@dataclass(frozen=True)
class LlamaCppOptions:
    """How a GGUF model is run. Every field is an option of `hanpaca.load`."""

    context: int | None = None
    """Longest prompt + answer in tokens; `extension` serves beyond the native window. None: the native window, or what
    half of the free memory holds."""
    alpha: float | Literal["auto"] = "auto"
    """NTK alpha beyond the native window; "auto" computes it from each request's length."""
    extension: Choice = "auto"
    """What stretches the model beyond its native window: ntk (adaptive), yarn, or auto, which suits the model."""
    cells: int | None = None
    """Cache cells shared by all requests of a context, which has one for each of its tokens at least; None: up to four
    times the context, as memory allows."""
    kv_type: str = "f16"
    """Cache type: f32, f16, bf16, q8_0 or q4_0."""
    flash_attention: bool = True
    """Quantized caches need it, and idle cells cost little with it."""
    threads: int | None = None
    """CPU threads; None: one for each physical core."""
    gpu_layers: int = -1
    """Layers on the GPU where llama.cpp was built for one; -1 all."""
    tensor_split: tuple[float, ...] | None = None
    """Shares of several GPUs."""
    mmap: bool = True
    """Map the file instead of reading it."""
    mlock: bool = False
    """Keep the weights from being swapped out."""
    loras: tuple[tuple[str, float], ...] = ()
    """GGUF LoRA adapters with their scales."""
    running: int = 64
    """Most requests that run at the same time."""
    prefix_memory: int | None = None
    """Bytes of memory that keep finished conversations and documents for reuse, beside the cells; 0 for none. None: a
    tenth of the free memory, at most 2 GiB."""
    queue: int = 1024
    """Most requests that wait; more are refused with `Busy`."""
    prompt_lookup: int = 0
    """Tokens to guess ahead in each step from what stands in the prompt and the answer; 3 is a good number, 0 none."""

    def __post_init__(self) -> None:
        if not isinstance(self.kv_type, str) or self.kv_type not in KV_TYPES:
            raise BadInput(f"kv_type {self.kv_type!r} is not known.", f"Valid: {', '.join(KV_TYPES)}.")
        check_switches(self, "flash_attention", "mmap", "mlock")
        if self.kv_type.startswith("q") and not self.flash_attention:
            raise BadInput(f"A {self.kv_type} cache needs flash attention.", "Leave flash_attention on.")
        check_alpha(self.alpha)
        check_extension(self.extension)
        check_whole_numbers(
            self,
            [
                ("context", 1, MOST_TOKENS),
                ("cells", 1, MOST_TOKENS),
                ("threads", 1, 1024),
                ("gpu_layers", -1, 10_000),
                ("running", 1, 256),
                ("queue", 1, 10**6),
                ("prefix_memory", 0, 2**50),
                ("prompt_lookup", 0, MOST_GUESSED),
            ],
        )
        object.__setattr__(self, "tensor_split", _shares(self.tensor_split))


class LlamaCppEngine(LocalEngine):
    """An `Engine` over one GGUF file. Engines over the same file share its weights."""

    def __init__(self, path: Path, rope: Rope, options: LlamaCppOptions | None = None) -> None:
        self._options = options = options or LlamaCppOptions()
        self._shared = SharedWeights.of(
            path,
            gpu_layers=options.gpu_layers,
            tensor_split=options.tensor_split,
            mmap=options.mmap,
            mlock=options.mlock,
        )
        super().__init__(self._shared, options)
        native = self._shared.native
        self.vocabulary = native.vocabulary
        self.chat_template = native.meta("tokenizer.chat_template")
        self._extend(rope, options.context or self._shared.fitting_context(rope.native_context, options.kv_type))
        self._loras = tuple((stamp(Path(lora)), scale) for lora, scale in options.loras)
        how = f"kv={options.kv_type} fa={options.flash_attention} {options.extension} alpha={options.alpha}"
        self.identity = f"llama.cpp {stamp(path)} {how} context={self.context} loras={self._loras}"

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        self._check_open()
        with self._shared.reading():
            return self._shared.native.tokenize(text, special=special) if text else []

    def token_bytes(self, token: int) -> bytes:
        self._check_open()
        self._check([token])
        with self._shared.reading():
            return self._piece(token)

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.embed`."""
        self._check_open()
        for tokens in texts:
            if not tokens:
                raise BadInput("A text to embed is empty.", "Give at least one token.")
            self._check(tokens)
        vectors = []
        for tokens in texts:  # other work goes on between them, and so does closing
            self._check_open()
            vectors.append(self._shared.embed(tokens, threads=self._options.threads or physical_cores()))
        return vectors

    def _piece(self, token: int) -> bytes:
        return self._shared.native.token_bytes(token)

    def _sampler(self, request: Request) -> Sampler:
        return Sampler(self._shared.native, request.sampling)

    def _context_key(self, chosen: RopePlan) -> ContextKey:
        o = self._options
        if self._shared.embeds:
            raise UnsupportedFeature(
                "This is an embedding model: it writes no text.", "Use `embed`, or load a language model."
            )
        threads, loras = o.threads or physical_cores(), self._loras
        return ContextKey(chosen, loras, o.kv_type, o.flash_attention, o.cells, threads, o.running, o.prefix_memory)


def _shares(split: Any) -> tuple[float, ...] | None:
    if split is None:
        return None
    fine = isinstance(split, list | tuple) and all(
        isinstance(share, int | float) and not isinstance(share, bool) and share >= 0 for share in split
    )
    if not fine or not any(split):
        raise BadInput(f"tensor_split must be a list of shares, one for each GPU, not {split!r}.", "Such as [3, 1].")
    return tuple(float(share) for share in split)


def open_engine(source: ModelSource, options: Mapping[str, Any]) -> LlamaCppEngine:
    """The engine of a GGUF file, which is checked before llama.cpp sees it. Raises `BadModelFile`, `BadInput`."""
    from ..gguf_header import read, rope_of

    assert source.path is not None
    valid = [field.name for field in dataclasses.fields(LlamaCppOptions)]
    for name in options:
        if name not in valid:
            raise BadInput(f"{name!r} is not an option of the llama.cpp engine.", f"Valid: {', '.join(valid)}.")
    given = dict(options)
    loras = adapters_of(source.loras) + adapters_of(given.pop("loras", ()))
    rope = source.entry.rope if source.entry and source.entry.rope else rope_of(read(source.path))
    return LlamaCppEngine(source.path, rope, LlamaCppOptions(**given, loras=loras))
