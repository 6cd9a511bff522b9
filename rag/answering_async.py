"""`answering` for event loops: in a thread, with a model that can be given up.

Knows no framework.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

from .answering import stream_answer
from .answers import Answer, ChatModel, Event
from .interruptible import Interruptible
from .library import Library


async def aanswer(library: Library, model: ChatModel | None, question: str, **options: Any) -> Answer:
    """`answer` without blocking the event loop."""
    async for event in astream_answer(library, model, question, **options):
        if isinstance(event, Answer):
            return event
    raise AssertionError("a stream of events ends with the answer")


async def astream_answer(
    library: Library, model: ChatModel | None, question: str, **options: Any
) -> AsyncIterator[Event]:
    """`stream_answer` without blocking the event loop. Closing the iterator, or cancelling the task, stops the work."""
    loop, queue = asyncio.get_running_loop(), asyncio.Queue[Event | BaseException | None]()
    stopped, interruptible = threading.Event(), Interruptible.of(model, loop)

    def tell(item: Event | BaseException | None) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, item)

    def work() -> None:
        try:
            events = stream_answer(library, interruptible or model, question, **options)
            for event in events:
                if stopped.is_set():
                    events.close()  # type: ignore[attr-defined]
                    return
                tell(event)
            tell(None)
        except BaseException as error:  # handed to the waiting side, which raises it
            tell(error)

    worker = asyncio.create_task(asyncio.to_thread(work))
    try:
        while (item := await queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        if interruptible is not None:
            interruptible.give_up()
        if not worker.done():
            await asyncio.shield(worker)
