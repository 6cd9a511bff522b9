"""What the engines that compute in this process have in common: plans, checks, the queue, and closing.

Knows no decoder: a subclass has the weights, the tokenizer and the samplers.
"""

from __future__ import annotations

import math
import operator
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from ..errors import BadInput, Busy, Closed, ContextOverflow, EngineFailure, HanpacaError
from ..rope import Choice, Rope, RopePlan, context_sizes, plan
from .assembly import Assembly
from .base import Listener, Request, Vocabulary
from .generation import GenerationHandle, GenerationJob, ScoreJob, TokenSampler
from .jobs import Job
from .lookup import Lookup
from .shared import Shared


class LocalOptions(Protocol):
    """Options that every such engine has."""

    @property
    def context(self) -> int | None: ...
    @property
    def alpha(self) -> float | Literal["auto"]: ...
    @property
    def extension(self) -> Choice: ...
    @property
    def queue(self) -> int: ...
    @property
    def prompt_lookup(self) -> int: ...


class LocalEngine:
    """An `Engine` over shared weights. Each engine owns its requests, and ends them when it closes."""

    vocabulary: Vocabulary
    native_context: int
    context: int
    chat_template: str | None
    identity: str

    def __init__(self, shared: Shared[Any, Any], options: LocalOptions) -> None:
        self._weights = shared
        self._limits = options
        self._owner = object()
        shared.enter(self._owner)
        self._pid = os.getpid()
        self._closed = False
        self._closing = threading.Lock()
        self._finalizer = weakref.finalize(self, shared.release_later, self._owner)
        self._finalizer.atexit = False  # the workers end by themselves then

    def _extend(self, rope: Rope, context: int) -> None:
        """Settle the lengths: `context` tokens at most, with a plan for each size up to it."""
        self.native_context = rope.native_context
        self.context = context
        self._plans = [
            plan(rope, size, self._limits.alpha, self._limits.extension) for size in context_sizes(rope, context)
        ]

    # -- what a subclass says ------------------------------------------------------------------------------------

    def _context_key(self, chosen: RopePlan) -> Hashable:
        """Which context of the weights serves a plan."""
        raise NotImplementedError

    def _sampler(self, request: Request) -> TokenSampler:
        """A sampler for one request. Raises `BadInput` for settings that cannot be had."""
        raise NotImplementedError

    def _piece(self, token: int) -> bytes:
        """`token_bytes` on the worker thread."""
        raise NotImplementedError

    # -- Engine --------------------------------------------------------------------------------------------------

    def submit(self, request: Request, listener: Listener) -> GenerationHandle:
        """Queue a request; see `Engine.submit`."""
        limit = request.sampling.max_tokens
        if limit is None:
            raise BadInput("An engine's request needs max_tokens.", "Ask through Model, which chooses it.")
        key = self._key(len(request.tokens), limit, request.context)
        self._check(request.tokens)
        self._check(tuple(request.sampling.logit_bias))
        assembly = Assembly(request, listener, self.vocabulary.ends, self._piece)
        with self._weights.reading():
            job = GenerationJob(request, limit, self._sampler(request), assembly)
        if self._limits.prompt_lookup:
            job.lookup = Lookup(self._limits.prompt_lookup)
        self._enqueue(key, job)
        return GenerationHandle(job)

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`. The prompt is computed once."""
        self._check_open()
        if not prompt:
            raise BadInput("The prompt is empty.", "Give at least one token.")
        self._check(prompt)
        jobs = [ScoreJob(prompt, given) if given else ScoreJob.empty(prompt) for given in continuations]
        keys = [self._key(len(prompt), len(given), 0) for given in continuations]
        for given in continuations:
            self._check(given)
        todo = [(key, job) for key, job, given in zip(keys, jobs, continuations, strict=True) if given]
        under_way: deque[ScoreJob] = deque()
        try:
            for index, (key, job) in enumerate(todo):
                while index and self._full:  # only the first may be refused: a batch may exceed the queue
                    under_way.popleft().wait() if under_way else time.sleep(0.05)
                (self._hand_in if index else self._enqueue)(key, job)
                under_way.append(job)
            return [job.result() for job in jobs]
        finally:
            for job in jobs:
                job.cancelled = True

    def close(self) -> None:
        """End this engine's requests with `Closed`; the weights go when the last engine over them closes."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._finalizer.detach()
        if os.getpid() == self._pid:  # else the threads of the parent are not here: nothing to stop
            self._weights.release(self._owner)

    def __reduce__(self) -> Any:
        raise EngineFailure("A loaded model cannot be pickled.", "Send its name, and load it on the other side.")

    @property
    def computed(self) -> int:
        """Tokens that the contexts of these weights have decoded so far, for benchmarks and tests."""
        return self._weights.computed

    # -- checks and the queue --------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise EngineFailure(
                "This process was forked after the model was loaded; the threads that run it did not come along.",
                "Load the model in the child process, or start it with the spawn method.",
            )
        if self._closed:
            raise Closed("The model is closed.", "Load it again with hanpaca.load().")

    def _check(self, tokens: Sequence[int]) -> None:
        """Raise `BadInput` for an id that is not in the vocabulary: native code would end the process."""
        size = self.vocabulary.size
        try:
            tokens = [operator.index(token) for token in tokens]
        except TypeError as error:
            raise BadInput(f"Token ids are whole numbers: {error}.", "Use this model's tokenizer.") from error
        if tokens and not (min(tokens) >= 0 and max(tokens) < size):
            wrong = next(token for token in tokens if not 0 <= token < size)
            raise BadInput(f"Token id {wrong} is not in the vocabulary of {size}.", "Use this model's tokenizer.")

    def _key(self, prompt: int, new: int, context: int) -> Hashable:
        self._check_open()
        if not prompt:
            raise BadInput("The prompt is empty.", "Give at least one token.")
        wanted = max(prompt + new, context)
        if wanted > self.context:
            raise ContextOverflow(
                f"{prompt} prompt tokens and {new} new ones exceed the context of {self.context}.",
                "Shorten the prompt, ask for fewer tokens, or load the model with a larger context.",
            )
        return self._context_key(next(plan for plan in self._plans if plan.context >= wanted))

    @property
    def _full(self) -> bool:
        return self._weights.waiting >= self._limits.queue

    def _enqueue(self, key: Hashable, job: Job) -> None:
        if self._full:
            job.released()
            raise Busy(f"{self._limits.queue} requests are waiting already.", "Try again in a moment.")
        self._hand_in(key, job)

    def _hand_in(self, key: Hashable, job: Job) -> None:
        try:
            job.owner = self._owner
            self._weights.submit(key, job)
        except HanpacaError:
            job.cancelled = True
            job.released()
            raise


def check_whole_numbers(options: Any, limits: Sequence[tuple[str, int, int]]) -> None:
    """Raise `BadInput` for an option that is neither None nor a whole number between its limits."""
    for name, low, high in limits:
        value = getattr(options, name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high):
            raise BadInput(f"{name} must be a whole number from {low:,} to {high:,}, not {value!r}.")


def check_switches(options: Any, *names: str) -> None:
    """Raise `BadInput` for an option that is neither True nor False."""
    for name in names:
        if not isinstance(getattr(options, name), bool):
            raise BadInput(f"{name} must be True or False, not {getattr(options, name)!r}.")


def check_alpha(alpha: Any) -> None:
    """Raise `BadInput` unless it is "auto" or a number of at least 1."""
    fine = alpha == "auto" or (isinstance(alpha, int | float) and not isinstance(alpha, bool) and 1 <= alpha < 1e6)
    if not fine:
        raise BadInput(f"alpha must be a number of at least 1, or 'auto', not {alpha!r}.")


def adapters_of(given: Any) -> tuple[tuple[str, float], ...]:
    """LoRA files with their scales: a path, or a list of paths or (path, scale) pairs."""
    try:
        items = [given] if isinstance(given, str | Path) else list(given)
        pairs = [(item, 1.0) if isinstance(item, str | Path) else item for item in items]
        adapters = tuple((str(path), float(scale)) for path, scale in pairs)
        if not all(math.isfinite(scale) for _, scale in adapters):
            raise ValueError("a scale is no finite number")
    except (TypeError, ValueError) as error:
        raise BadInput(f"loras must be files, or pairs of a file and its scale: {error}.") from error
    for path, _ in adapters:
        if not Path(path).exists():
            raise BadInput(f"There is no LoRA adapter {path}.", "Name an adapter file, or PEFT's folder.")
    return adapters
