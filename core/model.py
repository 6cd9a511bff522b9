"""`Model`: the one object that every adapter wraps. Knows templates and lengths; leaves tokens to an engine.

Weights load at first use. All methods may be called from any thread; the async ones never block the event loop.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .chat import Message, Template, template_for
from .engines import open_engine, streams
from .engines.base import Completion, Delta, Engine, Request
from .errors import BadInput, Closed, ContextOverflow
from .sampling import Sampling

if TYPE_CHECKING:
    from .catalog import ModelSource

DEFAULT_NEW_TOKENS = 512
"""Most new tokens of a request that names no `max_tokens`."""

Conversation = Sequence[Message | Mapping[str, str]]


def load(
    name: str | Path,
    *,
    engine: str | None = None,
    system_prompt: str | None = None,
    template: str | None = None,
    tuned: bool = True,
    **options: Any,
) -> Model:
    """A model by catalog name, GGUF file, checkpoint folder, hub id or URL; see `core.catalog.resolve`.

    Nothing heavy happens before the first use. `engine`: "transformers" reads a GGUF file into PyTorch; None takes the
    usual one (llama.cpp for GGUF, PyTorch for checkpoints). `system_prompt` replaces the template's own ("" for none,
    "long" for the longer published one). `template` names a template for files that carry none: "llama-2". With
    `tuned` the file that `hanpaca tune` chose for this machine is used in place of the one named. `options` are the
    engine's: for GGUF those of `LlamaCppOptions` (context, kv_type, threads, gpu_layers, …). Raises `ModelNotFound`,
    and `BadInput` for an engine that cannot run these files.
    """
    from .catalog import resolve, run_by

    source = resolve(name)
    if engine is not None:
        source, tuned = run_by(source, engine), tuned and engine == "llama_cpp"
    return Model(source, system_prompt=system_prompt, template=template, tuned=tuned, **options)


class Model:
    """A language model. Use as a context manager, or call `close`."""

    def __init__(
        self,
        source: ModelSource,
        *,
        system_prompt: str | None = None,
        template: str | None = None,
        tuned: bool = False,
        **options: Any,
    ) -> None:
        self._source = source
        self._tuned = tuned
        self._system_prompt = system_prompt
        self._template_name = template
        self._options = options
        self._lock = threading.Lock()
        self._preparing = threading.Lock()
        self._prepared: ModelSource | None = None
        self._engine: Engine | None = None
        self._template: Template | None = None
        self._closed = False

    # -- what it is ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """As it was asked for."""
        return self._source.name

    @property
    def source(self) -> ModelSource:
        """Where its files are. The first look at a packaged model may take seconds; see `tuning.prepare`."""
        if not self._tuned:
            return self._source
        with self._preparing:
            if self._prepared is None:
                from .tuning import prepare

                self._prepared = prepare(self._source)
            return self._prepared

    @property
    def kind(self) -> str:
        """ "chat" or "base". Loads the weights of a model that the catalog does not know."""
        if self._source.entry is not None:
            return self._source.entry.kind
        return "chat" if self._template_name or self.engine.chat_template else "base"

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages it speaks ("zh", "en"); empty where nobody says."""
        return self._source.entry.languages if self._source.entry is not None else ()

    @property
    def reads(self) -> bool:
        """Whether it was taught to answer from a few numbered sentences, in their own words, and nothing else."""
        return self._source.entry is not None and self._source.entry.reads and bool(self._source.loras)

    @property
    def identity(self) -> str:
        """All that changes its answers but the sampling, in one line; known without loading."""
        from .engines.local import adapters_of

        adapters = [Path(path) for path, _ in adapters_of(self._options.get("loras", ()))]
        files = [] if self.source.path is None else [self.source.path, *map(Path, self.source.loras), *adapters]
        stamps = [f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
        options = {name: value for name, value in self._options.items() if name != "api_key"}  # caches keep this line
        own = {"system_prompt": self._system_prompt, "template": self._template_name, **options}
        return f"{self.source.engine} {self.source.name} {self.source.url or ''} {stamps} {sorted(own.items())!r}"

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return self.engine.context

    @property
    def native_context(self) -> int:
        """Tokens that the model serves without context extension."""
        return self.engine.native_context

    @property
    def engine(self) -> Engine:
        """The engine, weights loaded. Raises `Closed`, `BadModelFile`, `EngineUnavailable`."""
        engine = self._engine
        if engine is None:
            with self._lock:
                if self._closed:
                    raise Closed(f"The model {self.name} is closed.", "Load it again with hanpaca.load().")
                if self._engine is None:
                    self._engine = open_engine(self.source, self._options)
                engine = self._engine
        return engine

    @property
    def template(self) -> Template:
        """The chat template. Raises `UnsupportedFeature` for base models."""
        if self._template is None:
            entry, engine = self._source.entry, self.engine
            self._template = template_for(
                kind=entry.kind if entry else None,
                template=self._template_name or (entry.template if entry else None),
                metadata_template=engine.chat_template,
                vocabulary_size=engine.vocabulary.size,
                system_prompt=self._system_prompt,
            )
        return self._template

    # -- chat ----------------------------------------------------------------------------------------------------

    def chat(self, messages: Conversation, sampling: Sampling | None = None, **settings: Any) -> Completion:
        """The answer to a conversation. `settings` replace those of `sampling`, by name."""
        return streams.complete(self.engine, [self.chat_request(messages, sampling, **settings)])[0]

    def stream_chat(self, messages: Conversation, sampling: Sampling | None = None, **settings: Any) -> Iterator[Delta]:
        """`chat` piece by piece. Closing the iterator stops the work."""
        return streams.stream(self.engine, self.chat_request(messages, sampling, **settings))

    def chat_batch(
        self, conversations: Sequence[Conversation], sampling: Sampling | None = None, **settings: Any
    ) -> list[Completion]:
        """Answers to many conversations, computed together."""
        requests = [self.chat_request(messages, sampling, **settings) for messages in conversations]
        return streams.complete(self.engine, requests)

    async def achat(self, messages: Conversation, sampling: Sampling | None = None, **settings: Any) -> Completion:
        """`chat` without blocking the event loop; cancelling the task stops the work."""
        requests = await streams.off_loop(lambda: [self.chat_request(messages, sampling, **settings)])
        return (await streams.acomplete(self.engine, requests))[0]

    async def astream_chat(
        self, messages: Conversation, sampling: Sampling | None = None, **settings: Any
    ) -> AsyncIterator[Delta]:
        """`stream_chat` without blocking the event loop."""
        request = await streams.off_loop(lambda: self.chat_request(messages, sampling, **settings))
        async with aclosing(streams.astream(self.engine, request)) as deltas:
            async for delta in deltas:
                yield delta

    async def achat_batch(
        self, conversations: Sequence[Conversation], sampling: Sampling | None = None, **settings: Any
    ) -> list[Completion]:
        """`chat_batch` without blocking the event loop."""
        requests = await streams.off_loop(
            lambda: [self.chat_request(messages, sampling, **settings) for messages in conversations]
        )
        return await streams.acomplete(self.engine, requests)

    # -- plain continuation ----------------------------------------------------------------------------------------

    def complete(self, prompt: str, sampling: Sampling | None = None, **settings: Any) -> Completion:
        """The continuation of a text, which is sent as it is (with BOS where the model wants one)."""
        return streams.complete(self.engine, [self.request(prompt, sampling, **settings)])[0]

    def stream_complete(self, prompt: str, sampling: Sampling | None = None, **settings: Any) -> Iterator[Delta]:
        """`complete` piece by piece. Closing the iterator stops the work."""
        return streams.stream(self.engine, self.request(prompt, sampling, **settings))

    def complete_batch(
        self, prompts: Sequence[str], sampling: Sampling | None = None, **settings: Any
    ) -> list[Completion]:
        """Continuations of many texts, computed together."""
        return streams.complete(self.engine, self._requests(prompts, sampling, settings))

    async def acomplete(self, prompt: str, sampling: Sampling | None = None, **settings: Any) -> Completion:
        """`complete` without blocking the event loop; cancelling the task stops the work."""
        requests = await streams.off_loop(lambda: [self.request(prompt, sampling, **settings)])
        return (await streams.acomplete(self.engine, requests))[0]

    async def astream_complete(
        self, prompt: str, sampling: Sampling | None = None, **settings: Any
    ) -> AsyncIterator[Delta]:
        """`stream_complete` without blocking the event loop."""
        request = await streams.off_loop(lambda: self.request(prompt, sampling, **settings))
        async with aclosing(streams.astream(self.engine, request)) as deltas:
            async for delta in deltas:
                yield delta

    async def acomplete_batch(
        self, prompts: Sequence[str], sampling: Sampling | None = None, **settings: Any
    ) -> list[Completion]:
        """`complete_batch` without blocking the event loop."""
        requests = await streams.off_loop(lambda: self._requests(prompts, sampling, settings))
        return await streams.acomplete(self.engine, requests)

    # -- measures ------------------------------------------------------------------------------------------------

    def score(self, prompt: str, continuations: str | Sequence[str]) -> list[float] | list[list[float]]:
        """Natural-log probability of each token of a continuation, or of several, the prompt computed once.

        The continuation is tokenised by itself.
        """
        texts = [continuations] if isinstance(continuations, str) else list(continuations)
        scores = self.engine.score(self.prompt_tokens(prompt), [self.engine.tokenize(text) for text in texts])
        return scores[0] if isinstance(continuations, str) else scores

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One unit vector per text, for embedding models. Raises `UnsupportedFeature` for others."""
        return self.engine.embed([self.prompt_tokens(text) for text in texts])

    def count_tokens(self, text: str | Conversation) -> int:
        """Tokens of a text (as content, without BOS), or of a conversation's rendered prompt."""
        if isinstance(text, str):
            return len(self.engine.tokenize(text))
        return len(self.chat_tokens(text))

    # -- prompts -------------------------------------------------------------------------------------------------

    def prompt_tokens(self, prompt: str) -> list[int]:
        """Ids of a plain prompt, BOS included where the model wants one."""
        if not isinstance(prompt, str):
            raise BadInput(f"A prompt is a text, not {type(prompt).__name__}.", "For messages use chat.")
        vocabulary = self.engine.vocabulary
        bos = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []
        return bos + self.engine.tokenize(prompt)

    def chat_tokens(self, messages: Conversation) -> list[int]:
        """Ids of a conversation's prompt. A last message of the assistant is the start of the answer."""
        if isinstance(messages, str | Message | Mapping) or not isinstance(messages, Iterable):
            raise BadInput(
                f"A conversation is a list of messages, not {type(messages).__name__}.", 'Such as [Message("user", …)].'
            )
        conversation = [Message.of(message) for message in messages]
        continued = bool(conversation) and conversation[-1].role == "assistant"
        return self.template.encode(conversation, self.engine, continue_final=continued)

    def _requests(
        self, prompts: Sequence[str], sampling: Sampling | None, settings: Mapping[str, Any]
    ) -> list[Request]:
        if isinstance(prompts, str):
            raise BadInput("Several prompts are wanted, not one text.", "Give a list: [text].")
        return [self.request(prompt, sampling, **settings) for prompt in prompts]

    def request(self, prompt: str, sampling: Sampling | None = None, **settings: Any) -> Request:
        """What `complete` hands to the engine."""
        return self._request(self.prompt_tokens(prompt), sampling, settings)

    def chat_request(self, messages: Conversation, sampling: Sampling | None = None, **settings: Any) -> Request:
        """What `chat` hands to the engine."""
        return self._request(self.chat_tokens(messages), sampling, settings)

    def token_request(self, tokens: list[int], sampling: Sampling | None = None, **settings: Any) -> Request:
        """The request of a prompt that is ids already, for callers with a template of their own."""
        return self._request(tokens, sampling, settings)

    def _request(self, tokens: list[int], sampling: Sampling | None, settings: Mapping[str, Any]) -> Request:
        if not tokens:
            raise BadInput("The prompt is empty.", "Give some text.")
        chosen = Sampling.of(sampling).replace(**settings)
        if chosen.max_tokens is None:
            chosen = chosen.replace(max_tokens=self._room(len(tokens)))
        return Request(tokens, chosen)

    def _room(self, prompt: int) -> int:
        """New tokens of a request that names none: what the native window leaves, so that it is not extended for
        an answer that may be short; beyond it, what the context leaves."""
        window = self.native_context if prompt < self.native_context else self.context_length
        room = min(DEFAULT_NEW_TOKENS, min(window, self.context_length) - prompt)
        if room < 1:
            raise ContextOverflow(
                f"The prompt's {prompt} tokens fill the context of {self.context_length}.",
                "Shorten it, or load the model with a larger context.",
            )
        return room

    # -- life ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop all work (its callers hear `Closed`) and let go of the weights. Idempotent."""
        with self._lock:
            self._closed = True
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Model({self.name!r})"

    def __reduce__(self) -> Any:
        """Pickled as its source and options: the other side loads it for itself."""
        own = {"system_prompt": self._system_prompt, "template": self._template_name, "tuned": self._tuned}
        return _rebuild, (self._source, own | self._options)


def _rebuild(source: ModelSource, options: Mapping[str, Any]) -> Model:
    return Model(source, **options)
