"""GGUF models through llama.cpp: shared weights, a context per RoPE plan, continuous batching.

Knows how requests become jobs of the scheduler; the scheduling itself is in `batching.py`, ctypes in
`llama_native.py`, sampling in `llama_sampling.py`.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadInput, Busy, Closed, ContextOverflow, EngineFailure, HanpacaError
from ..rope import Rope, RopePlan, context_sizes, plan
from .assembly import Assembly
from .base import Listener, Request
from .jobs import Job
from .llama_native import KV_TYPES, physical_cores
from .llama_sampling import Sampler, log_softmax
from .llama_shared import ContextKey, SharedWeights

if TYPE_CHECKING:
    from ..catalog import ModelSource


@dataclass(frozen=True)
class LlamaCppOptions:
    """How a GGUF model is run. Every field is an option of `hanpaca.load`."""

    context: int | None = None
    """Longest prompt + answer in tokens. Beyond the native window adaptive NTK serves. None: the native window, or
    what half of the free memory holds."""
    alpha: float | Literal["auto"] = "auto"
    """NTK alpha beyond the native window; "auto" computes it from each request's length."""
    cells: int | None = None
    """Cache cells shared by all requests of a context; None: up to four times the context, as memory allows."""
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

    def __post_init__(self) -> None:
        if self.kv_type not in KV_TYPES:
            raise BadInput(f"kv_type {self.kv_type!r} is not known.", f"Valid: {', '.join(KV_TYPES)}.")
        if self.kv_type.startswith("q") and not self.flash_attention:
            raise BadInput(f"A {self.kv_type} cache needs flash attention.", "Leave flash_attention on.")
        for name, low in (
            ("context", 1),
            ("cells", 1),
            ("threads", 1),
            ("running", 1),
            ("queue", 1),
            ("prefix_memory", 0),
        ):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < low):
                raise BadInput(f"{name} must be a whole number of at least {low}, not {value!r}.")


class LlamaCppEngine:
    """An `Engine` over one GGUF file. Engines over the same file share its weights; each owns its requests."""

    def __init__(self, path: Path, rope: Rope, options: LlamaCppOptions | None = None) -> None:
        self._options = options = options or LlamaCppOptions()
        self._rope = rope
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        self._owner = object()
        self._shared = SharedWeights.acquire(
            path,
            gpu_layers=options.gpu_layers,
            tensor_split=options.tensor_split,
            mmap=options.mmap,
            mlock=options.mlock,
        )
        self._finalizer = weakref.finalize(self, _release, self._shared, self._owner)
        native = self._shared.native
        self.vocabulary = native.vocabulary
        self.native_context = rope.native_context
        self.chat_template = native.meta("tokenizer.chat_template")
        self.context = options.context or self._shared.fitting_context(rope.native_context, options.kv_type)
        self._plans = [plan(rope, size, options.alpha) for size in context_sizes(rope, self.context)]
        stat = path.stat()
        self.identity = f"llama.cpp {path.resolve()} {stat.st_size} {stat.st_mtime_ns} {self._how()}"

    # -- Engine --------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        self._check_open()
        return self._shared.native.tokenize(text, special=special) if text else []

    def token_bytes(self, token: int) -> bytes:
        self._check_open()
        return self._shared.native.token_bytes(token)

    def submit(self, request: Request, listener: Listener) -> GenerationHandle:
        """Queue a request; see `Engine.submit`."""
        limit = request.sampling.max_tokens
        if limit is None:
            raise BadInput("An engine's request needs max_tokens.", "Ask through Model, which chooses it.")
        key = self._key(len(request.tokens), limit, request.context)
        self._check(request.tokens)
        assembly = Assembly(request, listener, self.vocabulary.ends, self._shared.native.token_bytes)
        job = GenerationJob(request, limit, Sampler(self._shared.native, request.sampling), assembly)
        self._enqueue(key, job)
        return GenerationHandle(job)

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`. The prompt is computed once."""
        jobs: list[ScoreJob] = []
        self._check_open()
        self._check(prompt)
        try:
            for continuation in continuations:
                if not continuation:
                    jobs.append(ScoreJob.empty(prompt))
                    continue
                key = self._key(len(prompt), len(continuation), 0)
                self._check([*prompt, *continuation])
                jobs.append(ScoreJob(prompt, continuation))
                self._enqueue(key, jobs[-1])
            return [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancelled = True

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.embed`."""
        self._check_open()
        for tokens in texts:
            self._check(tokens)
        return self._shared.embed(texts, threads=self._options.threads or physical_cores())

    def close(self) -> None:
        """End this engine's requests with `Closed`; the weights go when the last engine over them closes."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if os.getpid() == self._pid:
            self._finalizer()
        else:
            self._finalizer.detach()  # the threads of the parent are not here: nothing to stop

    def __reduce__(self) -> Any:
        raise EngineFailure("A loaded model cannot be pickled.", "Send its name, and load it on the other side.")

    # -- for benchmarks and tests --------------------------------------------------------------------------------

    @property
    def computed(self) -> int:
        """Tokens that the contexts of these weights have decoded so far."""
        return self._shared.computed

    # -- inside --------------------------------------------------------------------------------------------------

    def _how(self) -> str:
        o = self._options
        return f"kv={o.kv_type} fa={o.flash_attention} alpha={o.alpha} context={self.context} loras={o.loras}"

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise EngineFailure(
                "This process was forked after the model was loaded; llama.cpp's threads did not come along.",
                "Load the model in the child process, or start it with the spawn method.",
            )
        if self._closed:
            raise Closed("The model is closed.", "Load it again with hanpaca.load().")

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise BadInput("The prompt is empty.", "Give at least one token.")
        self._shared.native.check(tokens)

    def _key(self, prompt: int, new: int, context: int) -> ContextKey:
        self._check_open()
        wanted = max(prompt + new, context)
        if wanted > self.context:
            raise ContextOverflow(
                f"{prompt} prompt tokens and {new} new ones exceed the context of {self.context}.",
                "Shorten the prompt, ask for fewer tokens, or load the model with a larger context.",
            )
        chosen = next(plan for plan in self._plans if plan.context >= wanted)
        return self._context_key(chosen)

    def _context_key(self, chosen: RopePlan) -> ContextKey:
        o = self._options
        threads = o.threads or physical_cores()
        return ContextKey(chosen, o.loras, o.kv_type, o.flash_attention, o.cells, threads, o.running, o.prefix_memory)

    def _enqueue(self, key: ContextKey, job: Job) -> None:
        if self._shared.waiting >= self._options.queue:
            job.released()
            raise Busy(f"{self._options.queue} requests are waiting already.", "Try again in a moment.")
        job.owner = self._owner
        try:
            self._shared.submit(key, job)
        except HanpacaError:
            job.cancelled = True
            job.released()
            raise


def _release(shared: SharedWeights, owner: object) -> None:
    shared.release(owner)


class GenerationHandle:
    """A generation under way."""

    def __init__(self, job: GenerationJob) -> None:
        self._job = job

    def cancel(self) -> None:
        """Stop within one step; the listener hears no more."""
        self._job.assembly.silence()
        self._job.cancelled = True


class GenerationJob(Job):
    """Draws tokens until the answer ends."""

    def __init__(self, request: Request, limit: int, sampler: Sampler, assembly: Assembly) -> None:
        super().__init__(request.tokens, limit, len(request.tokens) - 1, request.sampling.timeout)
        self._sampler = sampler
        self.assembly = assembly

    def started(self, cached: int) -> None:
        self.assembly.cached_tokens = cached

    def output(self, row: int, position: int) -> int | None:
        token = self._sampler.draw(self.decoder, row)
        done = self.assembly.token(token, self._sampler.logprob(self.decoder, row, token))
        return None if done else token

    def fail(self, error: BaseException) -> None:
        self.assembly.fail(error)

    def released(self) -> None:
        self._sampler.free()


class ScoreJob(Job):
    """Reads off the log-probability of each given token."""

    def __init__(self, prompt: Sequence[int], continuation: Sequence[int]) -> None:
        super().__init__([*prompt, *continuation[:-1]], 1, len(prompt) - 1)
        self._targets = continuation
        self._scores: list[float] = []
        self._error: BaseException | None = None
        self._done = threading.Event()

    @classmethod
    def empty(cls, prompt: Sequence[int]) -> ScoreJob:
        """A continuation without tokens: done already."""
        job = cls(prompt, ())
        job._done.set()
        return job

    def result(self) -> list[float]:
        """Wait for the scores."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._scores

    def output(self, row: int, position: int) -> int | None:
        target = self._targets[position - self.first_output]
        self._scores.append(float(log_softmax(self.decoder.logits(row))[target]))
        return None

    def fail(self, error: BaseException) -> None:
        self._error = error

    def released(self) -> None:
        self._done.set()


def open_engine(source: ModelSource, options: Mapping[str, Any]) -> LlamaCppEngine:
    """The engine of a GGUF file, which is checked before llama.cpp sees it. Raises `BadModelFile`, `BadInput`."""
    from ..gguf_header import read, rope_of

    assert source.path is not None
    valid = [field.name for field in dataclasses.fields(LlamaCppOptions)]
    for name in options:
        if name not in valid:
            raise BadInput(f"{name!r} is not an option of the llama.cpp engine.", f"Valid: {', '.join(valid)}.")
    given = dict(options)
    adapters = [*source.loras, *given.pop("loras", ())]
    loras = tuple((str(a), 1.0) if isinstance(a, str | Path) else (str(a[0]), float(a[1])) for a in adapters)
    rope = source.entry.rope if source.entry and source.entry.rope else rope_of(read(source.path))
    return LlamaCppEngine(source.path, rope, LlamaCppOptions(**given, loras=loras))
