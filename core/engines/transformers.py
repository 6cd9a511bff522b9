"""PyTorch checkpoints, and GGUF files read into PyTorch, through transformers: the same contract as the other engines.

Knows how requests become jobs of the scheduler. Forward passes are in `torch_decoder.py`, loading in
`torch_model.py`, sampling in `torch_sampling.py`, scheduling in `batching.py`.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import BadInput, Busy, Closed, ContextOverflow, EngineFailure, UnsupportedFeature
from ..rope import Rope, RopePlan, context_sizes, plan
from .assembly import Assembly
from .base import Listener, Request
from .jobs import Job
from .llama_cpp import GenerationHandle, GenerationJob, ScoreJob
from .torch_sampling import NumpySampler
from .torch_shared import SharedModel, TransformersOptions

if TYPE_CHECKING:
    from ..catalog import ModelSource


class TransformersEngine:
    """An `Engine` over PyTorch weights. Engines over the same files and settings share them."""

    def __init__(
        self,
        path: Path,
        options: TransformersOptions | None = None,
        *,
        loras: Sequence[Path] = (),
        rope: Rope | None = None,
    ) -> None:
        self._options = options = options or TransformersOptions()
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.Lock()
        self._owner = object()
        self._shared = SharedModel.acquire(path, options, tuple(loras), rope)
        self._finalizer = weakref.finalize(self, _release, self._shared, self._owner)
        loaded, self._tokenizer = self._shared.loaded, self._shared.tokenizer
        self.vocabulary = self._tokenizer.vocabulary
        self.chat_template = self._tokenizer.chat_template
        self.native_context = loaded.rope.native_context
        self.context = options.context or self.native_context
        self._plans = [plan(loaded.rope, size, options.alpha) for size in context_sizes(loaded.rope, self.context)]
        settings = f"{loaded.dtype} {loaded.attention} {options.quantization} alpha={options.alpha}"
        self.identity = f"transformers {self._shared.stamp} {settings} context={self.context}"

    # -- Engine --------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        self._check_open()
        return self._tokenizer.tokenize(text, special=special)

    def token_bytes(self, token: int) -> bytes:
        self._check_open()
        self._check([token])
        return self._tokenizer.token_bytes(token)

    def submit(self, request: Request, listener: Listener) -> GenerationHandle:
        """Queue a request; see `Engine.submit`."""
        limit = request.sampling.max_tokens
        if limit is None:
            raise BadInput("An engine's request needs max_tokens.", "Ask through Model, which chooses it.")
        chosen = self._plan(len(request.tokens), limit, request.context)
        self._check([*request.tokens, *request.sampling.logit_bias])
        sampler = NumpySampler(request.sampling, self._tokenizer.token_bytes)
        assembly = Assembly(request, listener, self.vocabulary.ends, self._tokenizer.token_bytes)
        job = GenerationJob(request, limit, cast("Any", sampler), assembly)
        self._enqueue(chosen, job)
        return GenerationHandle(job)

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`. The prompt is computed once."""
        jobs: list[ScoreJob] = []
        try:
            for continuation in continuations:
                jobs.append(ScoreJob(prompt, continuation) if continuation else ScoreJob.empty(prompt))
                if continuation:
                    chosen = self._plan(len(prompt), len(continuation), 0)
                    self._check([*prompt, *continuation])
                    self._enqueue(chosen, jobs[-1])
            return [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancelled = True

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Language models do not embed."""
        raise UnsupportedFeature(
            "The transformers engine runs language models, which make no embeddings.",
            "Use one of hanpaca.rag's embedders, or an embedding GGUF.",
        )

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

    # -- inside --------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise EngineFailure(
                "This process was forked after the model was loaded; PyTorch's threads did not come along.",
                "Load the model in the child process, or start it with the spawn method.",
            )
        if self._closed:
            raise Closed("The model is closed.", "Load it again with hanpaca.load().")

    def _check(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise BadInput("The prompt is empty.", "Give at least one token.")
        for token in tokens:
            if not 0 <= token < self.vocabulary.size:
                raise BadInput(f"There is no token {token}.", f"Ids run from 0 to {self.vocabulary.size - 1}.")

    def _plan(self, prompt: int, new: int, context: int) -> RopePlan:
        self._check_open()
        if not prompt:
            raise BadInput("The prompt is empty.", "Give at least one token.")
        wanted = max(prompt + new, context)
        if wanted > self.context:
            raise ContextOverflow(
                f"{prompt} prompt tokens and {new} new ones exceed the context of {self.context}.",
                "Shorten the prompt, ask for fewer tokens, or load the model with a larger context.",
            )
        return next(plan for plan in self._plans if plan.context >= wanted)

    def _enqueue(self, chosen: RopePlan, job: Job) -> None:
        if self._shared.waiting >= self._options.queue:
            job.released()
            raise Busy(f"{self._options.queue} requests are waiting already.", "Try again in a moment.")
        job.owner = self._owner
        self._shared.submit(chosen, job)


def _release(shared: SharedModel, owner: object) -> None:
    shared.release(owner)


def open_engine(source: ModelSource, options: Mapping[str, Any]) -> TransformersEngine:
    """The engine of a checkpoint folder or GGUF file. Raises `BadModelFile`, `BadInput`, `EngineUnavailable`."""
    assert source.path is not None
    valid = [field.name for field in dataclasses.fields(TransformersOptions)]
    for name in options:
        if name not in (*valid, "loras"):
            raise BadInput(
                f"{name!r} is not an option of the transformers engine.", f"Valid: {', '.join([*valid, 'loras'])}."
            )
    given = dict(options)
    loras = [Path(lora) for lora in (*source.loras, *given.pop("loras", ()))]
    rope = source.entry.rope if source.entry else None
    return TransformersEngine(source.path, TransformersOptions(**given), loras=loras, rope=rope)
