"""Callers' side of an engine: a listener becomes an iterator, an async iterator, or a whole answer.

Knows no engine but through `Engine.submit`. Leaving an iterator early, cancelling a task or an exception in the
caller cancels the request.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .base import Completion, Delta, Engine, Handle, Request

if TYPE_CHECKING:
    import asyncio


def stream(engine: Engine, request: Request) -> Iterator[Delta]:
    """Deltas as they come. Closing the iterator stops the work."""
    heard: queue.SimpleQueue[Delta | BaseException] = queue.SimpleQueue()
    handle = engine.submit(request, heard.put)
    try:
        while True:
            event = heard.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if event.finish_reason:
                return
    finally:
        handle.cancel()


async def astream(engine: Engine, request: Request) -> AsyncIterator[Delta]:
    """Deltas as they come, without blocking the event loop. Closing the iterator or cancelling stops the work."""
    import asyncio

    heard: asyncio.Queue[Delta | BaseException] = asyncio.Queue()
    handle = engine.submit(request, _threadsafe(asyncio.get_running_loop(), heard.put_nowait))
    try:
        while True:
            event = await heard.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if event.finish_reason:
                return
    finally:
        handle.cancel()


def complete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """Whole answers of a batch, in order. The first error ends them all."""
    gathering = _Gathering(len(requests))
    try:
        for index, request in enumerate(requests):
            gathering.handles.append(engine.submit(request, gathering.listener(index)))
        gathering.ended.acquire()
        return gathering.results()
    finally:
        gathering.cancel()


async def acomplete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """`complete` without blocking the event loop. Cancelling the task stops the work."""
    import asyncio

    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    gathering = _Gathering(len(requests))

    def wake(_: object) -> None:
        if not done.done():
            done.set_result(None)

    gathering.on_end = _threadsafe(asyncio.get_running_loop(), wake)
    try:
        for index, request in enumerate(requests):
            gathering.handles.append(engine.submit(request, gathering.listener(index)))
        if requests:
            await done
        return gathering.results()
    finally:
        gathering.cancel()


class _Gathering:
    """Collects the deltas of several requests and wakes its caller once, at the end or at the first error."""

    def __init__(self, count: int) -> None:
        self.handles: list[Handle] = []
        self.ended = threading.Semaphore(0 if count else 1)
        self.on_end: Any = None
        self._deltas: list[list[Delta]] = [[] for _ in range(count)]
        self._left = count
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def listener(self, index: int) -> Any:
        deltas = self._deltas[index]

        def hear(event: Delta | BaseException) -> None:
            if isinstance(event, BaseException):
                self._error = self._error or event
                self._end()
                return
            deltas.append(event)
            if event.finish_reason:
                with self._lock:  # an engine may have several threads
                    self._left -= 1
                if not self._left:
                    self._end()

        return hear

    def results(self) -> list[Completion]:
        if self._error is not None:
            raise self._error
        return [_join(deltas) for deltas in self._deltas]

    def cancel(self) -> None:
        for handle in self.handles:
            handle.cancel()

    def _end(self) -> None:
        self.ended.release()
        if self.on_end is not None:
            self.on_end(None)


def _join(deltas: Sequence[Delta]) -> Completion:
    last = deltas[-1]
    assert last.finish_reason is not None and last.usage is not None
    logprobs = tuple(entry for delta in deltas for entry in delta.logprobs)
    return Completion("".join(delta.text for delta in deltas), last.finish_reason, last.usage, logprobs)


def _threadsafe(loop: asyncio.AbstractEventLoop, call: Any) -> Any:
    """`call`, run in `loop` from any thread; silent once the loop has closed, when nobody listens any more."""

    def run(event: Any) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(call, event)

    return run
