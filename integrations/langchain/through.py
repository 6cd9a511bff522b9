"""A `ChatHanpaca` as the chat model that `hanpaca.rag` asks: each call goes through LangChain, with a chain's config.

`hanpaca.rag` works in a thread. Inside an event loop its calls are made on that loop, as LangChain's asynchronous ones,
so that cancelling the chain stops the model at once.
"""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar, cast

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.runnables import RunnableConfig

from ...core import Completion, Delta, Message, Sampling, Usage
from ...core.engines.base import TokenLogprob
from ...core.errors import BadInput
from .chat import ChatHanpaca
from .retriever import HanpacaRetriever

T = TypeVar("T")


def refuse_others(chat: object, retriever: object) -> None:
    """Raise `BadInput` unless a chain is given Hanpaca's own classes, or None."""
    if not isinstance(chat, ChatHanpaca | None):
        raise BadInput(
            f"This chain's chat model is a ChatHanpaca, not a {type(chat).__name__}.",
            "Give a ChatHanpaca, with max_tokens, stop and others set on it and not by bind.",
        )
    if not isinstance(retriever, HanpacaRetriever | None):
        raise BadInput(
            f"This chain's retriever is a HanpacaRetriever, not a {type(retriever).__name__}.",
            "Give a HanpacaRetriever; for other retrievers write a chain: prompt | chat.",
        )


class ThroughLangChain:
    """The model. With `loop`, it is built and its methods are called in other threads than the loop's."""

    def __init__(
        self, chat: ChatHanpaca, config: RunnableConfig | None, loop: asyncio.AbstractEventLoop | None = None
    ) -> None:
        self._chat, self._config, self._loop = chat, config, loop
        self._model = chat._look_up()
        self._under_way: set[Future[Any]] = set()
        self._stopped = False
        self.name, self.languages = self._model.name, self._model.languages

    @property
    def kind(self) -> str:
        return self._model.kind

    @property
    def reads(self) -> bool:
        return self._model.reads

    @property
    def context_length(self) -> int:
        return self._model.context_length

    def count_tokens(self, text: str | Sequence[Message]) -> int:
        return self._model.count_tokens(text)

    def prompt_tokens(self, prompt: str) -> list[int]:
        return self._model.prompt_tokens(prompt)

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Completion:
        asked, settings = _theirs(messages), _settings(sampling)
        if self._loop is None:
            return _completion(self._chat.invoke(asked, self._config, **settings))
        return _completion(self._wait(self._chat.ainvoke(asked, self._config, **settings)))

    def chat_batch(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None
    ) -> list[Completion]:
        asked: list[Any] = [_theirs(messages) for messages in conversations]
        settings = _settings(sampling)
        if self._loop is None:
            said = self._chat.batch(asked, self._config, **settings)
        else:
            said = self._wait(self._chat.abatch(asked, self._config, **settings))
        return [_completion(message) for message in said]

    def stream_chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[Delta]:
        asked, settings = _theirs(messages), _settings(sampling)
        if self._loop is None:
            chunks: Iterator[AIMessageChunk] = self._chat.stream(asked, self._config, **settings)
        else:
            chunks = self._pumped(self._chat.astream(asked, self._config, **settings))
        for chunk in chunks:
            reason = chunk.response_metadata.get("finish_reason")
            yield Delta(chunk.text, reason, _usage(chunk) if reason else None)

    def stop(self) -> None:
        """Cancel the calls under way; later ones fail."""
        self._stopped = True
        for call in list(self._under_way):
            call.cancel()

    async def in_thread(self, work: Callable[..., T], *given: Any) -> T:
        """`work(*given)` in a thread; cancelling stops the model and waits for the thread's end."""
        worker = asyncio.ensure_future(asyncio.to_thread(work, *given))
        try:
            return await asyncio.shield(worker)
        except asyncio.CancelledError:
            self.stop()
            with suppress(Exception, asyncio.CancelledError):
                await worker
            raise

    def _start(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        assert self._loop is not None
        if self._stopped:
            coroutine.close()
            raise CancelledError
        call = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._under_way.add(call)
        call.add_done_callback(self._under_way.discard)
        return call

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._start(coroutine).result()

    def _pumped(self, chunks: AsyncIterator[T]) -> Iterator[T]:
        """An asynchronous iterator of the loop, read from this thread."""
        received: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()

        async def pump() -> None:
            try:
                async for chunk in chunks:
                    received.put((chunk,))
                received.put(None)
            except BaseException as error:  # handed to the reading side, which raises it
                received.put(CancelledError() if isinstance(error, asyncio.CancelledError) else error)

        pumping = self._start(pump())
        try:
            while (item := received.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item[0]
        finally:
            pumping.cancel()


async def stoppable(events: AsyncIterator[T], stop: Callable[[], None] | None) -> AsyncGenerator[T, None]:
    """`events`; where their reader is cancelled or leaves, `stop` comes first, so that their end is not waited for."""
    step: asyncio.Future[T | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(anext(events, None))
            event = await asyncio.shield(step)
            if event is None:
                return
            yield event
    finally:
        if stop is not None:
            stop()
        if step is not None and not step.done():
            with suppress(Exception, asyncio.CancelledError):
                await step
        await cast(Any, events).aclose()


def _settings(sampling: Sampling | None) -> dict[str, Any]:
    given = {name: getattr(sampling, name) for name in Sampling.names()} if sampling else {}
    return {name: list(value) if name == "stop" else value for name, value in given.items() if value is not None}


def _theirs(messages: Sequence[Message]) -> list[BaseMessage]:
    return convert_to_messages([{"role": message.role, "content": message.content} for message in messages])


def _usage(message: AIMessage | AIMessageChunk) -> Usage:
    told = message.usage_metadata
    if told is None:
        return Usage()
    return Usage(told["input_tokens"], told["output_tokens"], told.get("input_token_details", {}).get("cache_read", 0))


def _completion(message: AIMessage) -> Completion:
    told = message.response_metadata
    tokens = (told.get("logprobs") or {}).get("content", ())
    logprobs = tuple(TokenLogprob(_UNKNOWN, bytes(one["bytes"]), one["logprob"]) for one in tokens)
    return Completion(message.text, str(told["finish_reason"]), _usage(message), logprobs)


_UNKNOWN = -1
"""LangChain's messages have no token ids."""
