"""Chat from documents: an answer of a library in OpenAI's form, with its sources. Knows no engine."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, cast

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from ...core import Message, Model, Sampling
from ...core.errors import BadInput
from ...rag import Answer, AnswerDelta, astream_answer
from ...rag.uploads import document_id, document_name
from .documents_uploads import Shelf
from .errors import told
from .openai_replies import Heading
from .openai_types import ChatRequest
from .service import Service
from .streaming import DONE, EventStream, event, while_connected

Events = AsyncGenerator[AnswerDelta | Answer, None]


async def answer_from_documents(
    request: Request, service: Service, asked: ChatRequest, messages: Sequence[Message], sampling: Sampling
) -> Response:
    """The reply to a chat with `use_documents`."""
    model = await _model(service, asked)
    shelf = await asyncio.to_thread(service.libraries.shelf, asked.library)
    heading = Heading("chat.completion", asked.model or (service.names[0] if model else "extract"))
    start = time.perf_counter()
    events = _events(shelf, model, asked, messages, sampling)
    if not asked.stream:
        answer = await while_connected(request, _last(events))
        service.metrics.count(answer.usage)
        said = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": answer.finish_reason}
        return JSONResponse(heading.whole([choice], answer.usage, **about(answer)))
    try:
        first = await while_connected(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    service.metrics.first_token.observe(time.perf_counter() - start)
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return EventStream(_pieces(service, heading, first, events, with_usage))


async def _model(service: Service, asked: ChatRequest) -> Model | None:
    """The model that writes; none to quote, or where the server has none."""
    if asked.mode == "extract" or (not service.names and asked.model is None):
        return None
    return await service.loaded_model(asked.model)


def _events(
    shelf: Shelf, model: Model | None, asked: ChatRequest, messages: Sequence[Message], sampling: Sampling
) -> Events:
    question = messages[-1].content
    if not question.strip():
        raise BadInput("The question is empty.", "Write one.")
    options: dict[str, Any] = {"mode": asked.mode or "auto", "k": asked.k or 5, "filters": asked.filters}
    options |= {"history": list(messages[:-1]), "sampling": sampling}
    return _reading(shelf, cast(Events, astream_answer(shelf.library, model, question, **options)))


async def _reading(shelf: Shelf, events: Events) -> Events:
    """The events of an answer; its library is not deleted meanwhile."""
    with shelf.gate.reading():
        async with aclosing(events):
            async for item in events:
                yield item


async def _last(events: Events) -> Answer:
    async with aclosing(events):
        async for item in events:
            if isinstance(item, Answer):
                return item
    raise AssertionError("a stream of events ends with the answer")


async def _pieces(
    service: Service, heading: Heading, first: AnswerDelta | Answer, events: Events, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    try:
        yield event(heading.piece([heading.opening(0)]))
        async with aclosing(events):
            item: AnswerDelta | Answer | None = first
            while item is not None:
                if isinstance(item, AnswerDelta):
                    yield event(heading.piece([heading.change(0, item.text, None)]))
                else:
                    service.metrics.count(item.usage)
                    yield event(heading.piece([heading.change(0, "", item.finish_reason)], **about(item)))
                    if with_usage:
                        yield event(heading.piece([], item.usage))
                item = await anext(events, None)
        yield DONE
    except Exception as error:
        yield event(told(error)[1])
    except BaseException:  # the client went away
        service.metrics.cancelled.inc()
        raise


def about(answer: Answer) -> dict[str, Any]:
    """What an answer says besides its text: sources, notes to the user, how it was made."""
    sources = [source(dataclasses.asdict(citation)) for citation in answer.citations]
    return {
        "sources": sources,
        "notes": list(answer.notes),
        "mode": answer.mode,
        "refused": answer.refused,
        "question": answer.question,
    }


def source(place: dict[str, Any]) -> dict[str, Any]:
    """A citation or a hit with its document's id and the name that people know."""
    path = str(place.pop("file"))
    return {"document": document_id(path), "file": document_name(path), **place}
