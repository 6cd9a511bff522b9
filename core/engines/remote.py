"""Any OpenAI-compatible server as an engine: vLLM (many GPUs, Ray), llama-server, or another Hanpaca.

Prompts are sent as token ids to `/v1/completions`, made by the tokenizer that the model was trained with, which lies
on this machine: a server that tokenises these models by itself gets Chinese wrong, and chat templates stay ours. The
answer's text is the server's. Knows requests; connections are in `remote_http.py`, what kinds of servers understand
in `remote_dialects.py`, tokenizers in `remote_tokenizer.py`.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, Busy, Closed, ContextOverflow, EngineFailure, HanpacaError, UnsupportedFeature
from .base import FINISH_REASONS, Delta, Listener, Request, TokenLogprob, Usage
from .local import check_whole_numbers
from .remote_dialects import DIALECTS, Dialect, body_of, dialect_of
from .remote_http import Address, Exchange, told_in_stream
from .remote_tokenizer import tokenizer_for

if TYPE_CHECKING:
    from ..catalog import ModelSource
    from .torch_tokenizer import Tokenizer

SCORED_TOGETHER = 32
"""Continuations whose scores are asked for in one request."""
_MARK = "token_id:"


@dataclass(frozen=True)
class RemoteOptions:
    """How a server is used. Every field is an option of `hanpaca.load`."""

    tokenizer: str | Path | None = None
    """The model's .gguf, its tokenizer.model, or a folder that holds one; None: the catalog's model of that name."""
    context: int | None = None
    """Longest prompt + answer in tokens; None: what the server says."""
    api_key: str | None = field(default=None, repr=False)
    """Sent as `Authorization: Bearer …`; None: $HANPACA_API_KEY, if it is set."""
    server: str | None = None
    """Its kind: hanpaca, vllm, llama-server or openai; None: what it says it is."""
    running: int = 64
    """Most connections at the same time; more requests wait here."""
    queue: int = 1024
    """Most requests that wait; more are refused with `Busy`."""

    def __post_init__(self) -> None:
        if self.server not in (None, *DIALECTS):
            raise BadInput(f"{self.server!r} is not a kind of server.", f"Valid: {', '.join(DIALECTS)}.")
        if self.api_key is not None and not (isinstance(self.api_key, str) and self.api_key.isascii()):
            raise BadInput("api_key must be ASCII text.")
        check_whole_numbers(self, [("context", 1, 2**24), ("running", 1, 4096), ("queue", 1, 10**6)])


class RemoteEngine:
    """An `Engine` whose tokens another server makes."""

    def __init__(
        self, address: Address, model: Mapping[str, Any], tokenizer: Tokenizer, options: RemoteOptions
    ) -> None:
        self._address = address
        self._tokenizer = tokenizer
        self._model = str(model["id"])
        self._dialect: Dialect = DIALECTS[options.server] if options.server else dialect_of(model)
        self._lines = _Lines(options.running, options.queue)
        self._open: set[Generation] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.vocabulary = tokenizer.vocabulary
        self.chat_template = tokenizer.chat_template
        self.context = self.native_context = _window(model, options, address)
        self.identity = f"remote {address.url} {self._model} {self._dialect.name} context={self.context}"

    # -- Engine --------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """See `Engine.tokenize`."""
        return self._tokenizer.tokenize(text, special=special) if text else []

    def token_bytes(self, token: int) -> bytes:
        """See `Engine.token_bytes`."""
        self._check([token])
        return self._tokenizer.token_bytes(token)

    def submit(self, request: Request, listener: Listener) -> Generation:
        """See `Engine.submit`. A connection is made for each request; at most `running` at the same time."""
        limit = request.sampling.max_tokens
        if limit is None:
            raise BadInput("An engine's request needs max_tokens.", "Ask through Model, which chooses it.")
        self._check_prompt(request.tokens, limit)
        self._check(tuple(request.sampling.logit_bias))
        body = body_of(request.sampling, self._dialect) | self._prompt([*request.tokens])
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        timeout = request.sampling.timeout
        exchange = Exchange(self._address, "POST", "/completions", body, timeout=timeout)
        generation = Generation(exchange, request, listener, self._address.url, self._logprobs, self._text_tokens)
        with self._lock:
            if self._closed:
                raise _closed()
            self._lines.put(lambda: self._run(generation))
            self._open.add(generation)
        return generation

    def score(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`. For servers that echo a prompt with its log-probabilities, as vLLM and Hanpaca do."""
        scores: list[list[float]] = [[] for _ in continuations]
        wanted = [index for index, continuation in enumerate(continuations) if continuation]
        for continuation in continuations:
            self._check_prompt([*prompt, *continuation], 0)
        for at in range(0, len(wanted), SCORED_TOGETHER):
            some = wanted[at : at + SCORED_TOGETHER]
            found = self._echoed([[*prompt, *continuations[index]] for index in some])
            for index, logprobs in zip(some, found, strict=True):
                scores[index] = logprobs[-len(continuations[index]) :]
        return scores

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """Not through this engine: servers embed texts, each with a tokenizer of its own."""
        raise UnsupportedFeature(
            "The remote engine runs language models and makes no embeddings.",
            "Use one of hanpaca.rag's embedders, or the server's /v1/embeddings.",
        )

    def close(self) -> None:
        """Hang up on every request; their callers hear `Closed`. Idempotent."""
        with self._lock:
            self._closed = True
            under_way = list(self._open)
        for generation in under_way:
            generation.fail(_closed())

    # -- requests ------------------------------------------------------------------------------------------------

    def _run(self, generation: Generation) -> None:
        try:
            generation.run()
        finally:
            with self._lock:
                self._open.discard(generation)

    def _prompt(self, tokens: Any) -> dict[str, Any]:
        return {"model": self._model, "prompt": tokens}

    def _echoed(self, prompts: list[list[int]]) -> list[list[float]]:
        """The log-probability of every token of each prompt but the first."""
        body = self._prompt(prompts) | {"echo": True, "max_tokens": 0, "logprobs": 0}
        try:
            choices = self._address.post("/completions", body)["choices"]
            columns = [choice["logprobs"]["token_logprobs"] for choice in sorted(choices, key=lambda c: c["index"])]
            found = [[float(value) for value in column[1:]] for column in columns]
        except (KeyError, TypeError, ValueError) as error:
            raise UnsupportedFeature(
                f"{self._address.url} does not tell the log-probabilities of a prompt"
                + (f": {error.problem}" if isinstance(error, HanpacaError) else "."),
                "Score with vLLM, another Hanpaca, or the model's file on this machine.",
            ) from error
        if [len(logprobs) + 1 for logprobs in found] != [len(prompt) for prompt in prompts]:
            raise EngineFailure(
                f"{self._address.url} counts other tokens in the prompt than were sent.", "Check its version."
            )
        return found

    def _logprobs(self, told: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...]:
        """Log-probabilities of a piece; an end-of-sequence token is none of the answer's."""
        if not told or not told.get("tokens"):
            return ()
        tops = told.get("top_logprobs") or [None] * len(told["tokens"])
        found = []
        for name, logprob, top in zip(told["tokens"], told["token_logprobs"], tops, strict=True):
            token = _id(name)
            if token not in self.vocabulary.ends:
                ranked = sorted((top or {}).items(), key=lambda item: -item[1])
                others = tuple((_id(other), self.token_bytes(_id(other)), float(value)) for other, value in ranked)
                found.append(TokenLogprob(token, self.token_bytes(token), float(logprob), others))
        return tuple(found)

    def _text_tokens(self, text: str) -> int:
        return len(self.tokenize(text))

    def _check_prompt(self, tokens: Sequence[int], new: int) -> None:
        if self._closed:
            raise _closed()
        if not tokens:
            raise BadInput("The prompt is empty.", "Give at least one token.")
        self._check(tokens)
        if len(tokens) + new > self.context:
            raise ContextOverflow(
                f"{len(tokens)} prompt tokens and {new} new ones exceed the context of {self.context}.",
                "Shorten the prompt, ask for fewer tokens, or start the server with a longer context.",
            )

    def _check(self, tokens: Sequence[int]) -> None:
        size = self.vocabulary.size
        if tokens and not (min(tokens) >= 0 and max(tokens) < size):
            raise BadInput(f"A token id is not in the vocabulary of {size}.", "Use this model's tokenizer.")

    def __reduce__(self) -> Any:
        raise EngineFailure("An engine cannot be pickled.", "Send the model's name, and load it on the other side.")


class Generation:
    """A request under way: a `Handle`. Its listener hears deltas, then a last one or an error, or nothing any more."""

    def __init__(
        self, exchange: Exchange, request: Request, listener: Listener, url: str,
        logprobs: Callable[[Mapping[str, Any] | None], tuple[TokenLogprob, ...]], count: Callable[[str], int],
    ) -> None:  # fmt: skip
        self._exchange, self._request, self._listener, self._url = exchange, request, listener, url
        self._logprobs, self._count = logprobs, count
        self._lock = threading.RLock()  # a listener may cancel
        self._over = False

    def cancel(self) -> None:
        """Hang up; the listener hears no more."""
        with self._lock:
            self._over = True
        self._exchange.abort()

    def fail(self, error: HanpacaError) -> None:
        """Hang up, and say why."""
        self._tell(error)
        self._exchange.abort()

    def run(self) -> None:
        """Ask, and tell the listener what comes."""
        if self._over:
            return
        try:
            with self._exchange:
                self._listen()
        except HanpacaError as error:
            self._tell(error)
        except Exception as error:
            self._tell(EngineFailure(f"{self._url} sent what is not understood: {error!r}.", "Look at its version."))

    def _listen(self) -> None:
        reason, usage, said = None, None, ""
        for event in self._exchange.events():
            if "error" in event:
                raise told_in_stream(event, self._url)
            usage = _usage(event.get("usage")) or usage
            for choice in event.get("choices") or ():
                text, logprobs = choice.get("text") or "", self._logprobs(choice.get("logprobs"))
                said += text
                reason = choice.get("finish_reason") or reason
                if text or logprobs:
                    self._tell(Delta(text, logprobs=logprobs))
        if reason not in FINISH_REASONS:
            raise EngineFailure(f"{self._url} ended the answer early ({reason}).", "Look at the server's log.")
        self._tell(Delta("", reason, usage or Usage(len(self._request.tokens), self._count(said))))

    def _tell(self, event: Delta | HanpacaError) -> None:
        with self._lock:
            if self._over:
                return
            self._over = isinstance(event, HanpacaError) or event.finish_reason is not None
            try:
                self._listener(event)
            except Exception:  # a caller that cannot listen has gone
                self._over = True


class _Lines:
    """Threads that wait for servers: as many as run at the same time, none while nothing does."""

    def __init__(self, most: int, queue: int) -> None:
        self._most, self._queue = most, queue
        self._busy = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()

    def put(self, work: Callable[[], None]) -> None:
        """Run soon, in the order of arrival. Raises `Busy`."""
        with self._lock:
            if self._busy >= self._most:
                if len(self._waiting) >= self._queue:
                    raise Busy(f"{self._queue} requests are waiting already.", "Try again in a moment.")
                self._waiting.append(work)
                return
            self._busy += 1
        # Daemons: a process that ends does not wait for what a server may still say.
        threading.Thread(target=self._serve, args=(work,), name="hanpaca-remote", daemon=True).start()

    def _serve(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            work()
            with self._lock:
                work = self._waiting.popleft() if self._waiting else None
                self._busy -= work is None


def open_engine(source: ModelSource, options: Mapping[str, Any]) -> RemoteEngine:
    """The engine of a server, which is asked what it serves. Raises `EngineUnavailable` where it does not answer,
    `ModelNotFound` where it does not serve the model, `BadInput` where the tokenizer is not known."""
    assert source.url is not None
    valid = [one.name for one in dataclasses.fields(RemoteOptions)]
    for name in options:
        if name not in valid:
            raise BadInput(f"{name!r} is not an option of the remote engine.", f"Valid: {', '.join(valid)}.")
    chosen = RemoteOptions(**options)
    tokenizer = tokenizer_for(source, chosen.tokenizer)
    address = Address(source.url, chosen.api_key or os.environ.get("HANPACA_API_KEY"))
    return RemoteEngine(address, _served(address, source.remote_name), tokenizer, chosen)


def _served(address: Address, name: str | None) -> Mapping[str, Any]:
    """What the server says of a model; None takes its first language model."""
    from ..errors import ModelNotFound

    listed = address.get("/models")
    found = listed.get("data") if isinstance(listed, dict) else None
    models = [model for model in found or () if isinstance(model, dict) and model.get("kind") != "embedding"]
    chosen = [model for model in models if name is None or model.get("id") == name]
    if not chosen:
        names = ", ".join(str(model.get("id")) for model in models) or "nothing"
        raise ModelNotFound(f"{address.url} does not serve {name or 'a language model'}.", f"It serves: {names}.")
    return chosen[0]


def _window(model: Mapping[str, Any], options: RemoteOptions, address: Address) -> int:
    """The context: what the user says, within what the server says."""
    meta = model.get("meta")
    told = model.get("max_model_len") or (meta.get("n_ctx_train") if isinstance(meta, Mapping) else None)
    if not isinstance(told, int) and options.context is None:
        raise BadInput(f"{address.url} does not say how long its context is.", "Say it: context=4096.")
    return min(options.context or 2**24, told if isinstance(told, int) else 2**24)


def _usage(told: Mapping[str, Any] | None) -> Usage | None:
    if not told:
        return None
    details = told.get("prompt_tokens_details") or {}
    return Usage(
        int(told.get("prompt_tokens") or 0), int(told.get("completion_tokens") or 0),
        int(details.get("cached_tokens") or 0),
    )  # fmt: skip


def _id(name: str) -> int:
    return int(name.removeprefix(_MARK))


def _closed() -> Closed:
    return Closed("The model is closed.", "Load it again with hanpaca.load().")
