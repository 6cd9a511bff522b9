"""Callers' side of an engine: a listener becomes an iterator, an async iterator, or a whole answer.

Knows no engine but through `Engine.submit`. Leaving an iterator early, cancelling a task or an exception in the
caller cancels the request.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import Busy
from .base import Completion, Delta, Engine, Handle, Request

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")
PATIENCE = 0.05
"""Seconds until a full queue, which others fill, is looked at again."""
_line: ContextVar[tuple[threading.Lock, asyncio.Lock] | None] = ContextVar("line", default=None)


@contextmanager
def waiting() -> Iterator[None]:
    """For batches that are called one by one: what is asked for in here, also in tasks and threads that begin in here,
    stands in line for room in a full queue, where others hear `Busy`."""
    import asyncio

    token = _line.set((threading.Lock(), asyncio.Lock()))
    try:
        yield
    finally:
        _line.reset(token)


def stream(engine: Engine, request: Request) -> Generator[Delta]:
    """Deltas as they come. Closing the iterator stops the work."""
    heard: queue.SimpleQueue[Delta | BaseException] = queue.SimpleQueue()
    handle = _admitted(lambda: engine.submit(request, heard.put))
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


async def astream(engine: Engine, request: Request) -> AsyncGenerator[Delta]:
    """Deltas as they come, without blocking the event loop. Closing the iterator or cancelling stops the work."""
    import asyncio

    heard: asyncio.Queue[Delta | BaseException] = asyncio.Queue()
    hear = _threadsafe(asyncio.get_running_loop(), heard.put_nowait)
    handle = await _aadmitted(
        lambda: off_loop(lambda: engine.submit(request, hear), undo=lambda handle: handle.cancel())
    )
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
    """Whole answers of a batch, in order. The first error ends them all. A batch may be longer than the queue."""
    gathering = _Gathering(requests)
    try:
        more = _admitted(lambda: gathering.submit(engine))
        while more:
            gathering.ended.acquire(timeout=gathering.patience)
            more = gathering.submit(engine)
        return gathering.results()
    finally:
        gathering.cancel()


async def acomplete(engine: Engine, requests: Sequence[Request]) -> list[Completion]:
    """`complete` without blocking the event loop. Cancelling the task stops the work."""
    import asyncio

    gathering, ended = _Gathering(requests), asyncio.Semaphore(0)
    gathering.on_end = _threadsafe(asyncio.get_running_loop(), lambda _: ended.release())

    def submit() -> Awaitable[bool]:
        return off_loop(lambda: gathering.submit(engine), undo=lambda _: gathering.cancel())

    try:
        more = await _aadmitted(submit)
        while more:
            with suppress(TimeoutError):
                async with asyncio.timeout(gathering.patience):
                    await ended.acquire()
            more = await submit()
        return gathering.results()
    finally:
        gathering.cancel()


def _admitted(submit: Callable[[], T]) -> T:
    """What `submit` returns; in `waiting` only once there is room."""
    line = _line.get()
    if line is None:
        return submit()
    with line[0]:  # the others wait without asking
        while True:
            try:
                return submit()
            except Busy:
                time.sleep(PATIENCE)


async def _aadmitted(submit: Callable[[], Awaitable[T]]) -> T:
    """`_admitted` without blocking the event loop."""
    import asyncio

    line = _line.get()
    if line is None:
        return await submit()
    async with line[1]:
        while True:
            try:
                return await submit()
            except Busy:
                await asyncio.sleep(PATIENCE)


class _Gathering:
    """Submits the requests of a batch and collects their deltas; `ended` and `on_end` tell of each end."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self.ended = threading.Semaphore(0)
        self.on_end: Any = None
        self.patience: float | None = None
        """Seconds to wait at most before the next `submit`; None: until one ends."""
        self._requests = requests
        self._handles: list[Handle] = []
        self._given_up = False
        self._deltas: list[list[Delta]] = [[] for _ in requests]
        self._open = len(requests)
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    def submit(self, engine: Engine) -> bool:
        """Hand in what the queue takes; whether there is anything to wait for. Raises `Busy` if it takes nothing."""
        self.patience = None
        while self._error is None and not self._given_up and len(self._handles) < len(self._requests):
            index = len(self._handles)
            under_way = self._open - (len(self._requests) - index)
            try:
                self._keep(engine.submit(self._requests[index], self._listener(index)))
            except Busy:
                if not index:
                    raise
                if not under_way:
                    self.patience = PATIENCE  # others fill the queue: look again
                break  # the end of one of ours makes room
        return self._error is None and self._open > 0

    def _keep(self, handle: Handle) -> None:
        with self._lock:
            self._handles.append(handle)
        if self._given_up:  # meanwhile
            handle.cancel()

    def results(self) -> list[Completion]:
        if self._error is not None:
            raise self._error
        return [_join(deltas) for deltas in self._deltas]

    def cancel(self) -> None:
        """Stop what still runs, and let go of it: a handle leads to the engine and its listener back to this."""
        self._given_up = True
        with self._lock:
            handles, self._handles = self._handles, []
        for handle in handles:
            handle.cancel()

    def _listener(self, index: int) -> Any:
        deltas = self._deltas[index]

        def hear(event: Delta | BaseException) -> None:
            if isinstance(event, BaseException):
                self._error = self._error or event
            else:
                deltas.append(event)
                if not event.finish_reason:
                    return
            with self._lock:  # an engine may have several threads
                self._open -= 1
            self.ended.release()
            if self.on_end is not None:
                self.on_end(None)

        return hear


async def off_loop(call: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
    """What `call` returns from another thread: loading weights, a long text's tokens and a grammar take seconds.

    A task that is cancelled meanwhile ends at once; `undo` gets the result when it is there.
    """
    import asyncio

    lock, left, got = threading.Lock(), False, list[T]()

    def run() -> T:
        result = call()
        with lock:
            got.append(result)
            late = left
        if late and undo is not None:
            undo(result)
        return result

    calling = asyncio.ensure_future(asyncio.to_thread(run))
    try:
        return await asyncio.shield(calling)
    except asyncio.CancelledError:
        with lock:
            left = True
            done = list(got)
        if undo is not None:
            for result in done:
                undo(result)
        raise


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
