"""A model for work in a thread that may be given up: its requests run on the event loop, where they can be cancelled.

A thread that waits for a whole answer, or for a long prompt, cannot be stopped from outside; a task can, at once.
Knows nothing of answering.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, TypeVar

from ..core.chat import Message
from ..core.engines.base import Completion, Delta
from ..core.sampling import Sampling
from .answers import ChatModel

T = TypeVar("T")


class Interruptible:
    """The part of a model that answering uses. `model` has the asynchronous methods of `hanpaca.Model` besides."""

    def __init__(self, model: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._model, self._loop = model, loop
        self._lock = threading.Lock()
        self._waited: Future[Any] | None = None
        self._over = False

    @property
    def name(self) -> str:
        """As the model; so are the others. Some load the weights, so none is asked for before it is needed."""
        return str(self._model.name)

    @property
    def kind(self) -> str:
        return str(self._model.kind)

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(self._model.languages)

    @property
    def reads(self) -> bool:
        return bool(self._model.reads)

    @property
    def context_length(self) -> int:
        return int(self._model.context_length)

    @staticmethod
    def of(model: ChatModel | None, loop: asyncio.AbstractEventLoop) -> Interruptible | None:
        """The model in this form; None where it has no asynchronous methods, or there is none."""
        return Interruptible(model, loop) if hasattr(model, "achat_batch") else None

    def give_up(self) -> None:
        """Cancel what runs, and refuse what comes. The waiting thread hears `CancelledError`."""
        with self._lock:
            self._over = True
            if self._waited is not None:
                self._waited.cancel()

    def count_tokens(self, text: str | Sequence[Message]) -> int:
        """As the model."""
        return int(self._model.count_tokens(text))

    def prompt_tokens(self, prompt: str) -> list[int]:
        """As the model."""
        return list(self._model.prompt_tokens(prompt))

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Completion:
        """As the model."""
        work: Coroutine[Any, Any, Completion] = self._model.achat(messages, sampling)
        return self._wait(work)

    def chat_batch(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None
    ) -> list[Completion]:
        """As the model."""
        work: Coroutine[Any, Any, list[Completion]] = self._model.achat_batch(conversations, sampling)
        return self._wait(work)

    def stream_chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[Delta]:
        """As the model."""
        deltas: AsyncGenerator[Delta, None] = self._model.astream_chat(messages, sampling)
        try:
            while (delta := self._wait(_next(deltas))) is not None:
                yield delta
        finally:
            with suppress(CancelledError, RuntimeError):  # RuntimeError: it is ending already
                self._wait(_close(deltas), even_if_over=True)

    def _wait(self, work: Coroutine[Any, Any, T], even_if_over: bool = False) -> T:
        with self._lock:
            if self._over and not even_if_over:
                work.close()
                raise CancelledError
            self._waited = waited = asyncio.run_coroutine_threadsafe(work, self._loop)
        return waited.result()


async def _next(deltas: AsyncGenerator[Delta, None]) -> Delta | None:
    return await anext(deltas, None)


async def _close(deltas: AsyncGenerator[Delta, None]) -> None:
    await deltas.aclose()
