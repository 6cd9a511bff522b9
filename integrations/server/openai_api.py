"""OpenAI's routes: models, chat, completions, embeddings.

Every answer is a stream of deltas inside; a whole answer is a stream that was collected, so both say the same. Knows
no engine: the model queues and batches.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from ...core import Delta, Model, Usage
from ...core.errors import BadInput
from .errors import told
from .openai_documents import answer_from_documents
from .openai_embeddings import embedded
from .openai_prompts import Prompt, prompts_of
from .openai_replies import Echo, Heading, joined, summed
from .openai_settings import check_documents, choices_of, messages_of, sampling_of
from .openai_types import ChatRequest, CompletionRequest, EmbeddingRequest, Settings
from .service import Service
from .streaming import DONE, EventStream, event, together, while_connected

router = APIRouter(prefix="/v1", tags=["OpenAI"])


def service_of(request: Request) -> Service:
    """The server's state."""
    service: Service = request.app.state.service
    return service


@dataclass
class Asked:
    """One request on its way: a stream for each answer, and the prompt each belongs to."""

    service: Service
    heading: Heading
    answers: list[AsyncIterator[Delta]] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    echoes: list[Echo | None] = field(default_factory=list)
    with_usage: bool = False
    start: float = field(default_factory=time.perf_counter)

    def add(self, answer: AsyncIterator[Delta], prompt: int = 0, echo: Echo | None = None) -> None:
        """One more answer."""
        self.answers.append(answer)
        self.prompts.append(prompt)
        self.echoes.append(echo)

    def first_came(self) -> None:
        """The first piece is there."""
        self.service.metrics.first_token.observe(time.perf_counter() - self.start)


# -- routes ------------------------------------------------------------------------------------------------------------


@router.get("/models")
async def models(request: Request) -> dict[str, Any]:
    """The language model and the embedder of this server."""
    return {"object": "list", "data": [await _described(service_of(request), name) for name in _names(request)]}


@router.get("/models/{name:path}")
async def one_model(request: Request, name: str) -> dict[str, Any]:
    """One of them."""
    service = service_of(request)
    if name not in _names(request):
        service.model(name)  # raises, or knows it by another name
        name = service.names[0]
    return await _described(service, name)


@router.post("/chat/completions", response_model=None)
async def chat(request: Request, asked: ChatRequest) -> Response:
    """The answer to a conversation; with `use_documents`, from a library and with sources."""
    service = service_of(request)
    sampling = sampling_of(asked, service.settings.request_timeout)
    check_documents(asked)
    _check_count(service, asked.n or 1)
    messages = messages_of(asked)
    if asked.use_documents:
        return await answer_from_documents(request, service, asked, messages, sampling)
    model = await service.loaded_model(asked.model)
    job = _asked(service, "chat.completion", asked)
    for settings in choices_of(sampling, asked.n):
        job.add(model.astream_chat(messages, settings))
    return await _respond(request, job, asked.stream)


@router.post("/completions", response_model=None)
async def completions(request: Request, asked: CompletionRequest) -> Response:
    """The continuation of prompts, or a chat model's answers to them."""
    service = service_of(request)
    only_echo = asked.echo and asked.max_tokens == 0
    settings = asked.model_copy(update={"max_tokens": None}) if only_echo else asked
    sampling = sampling_of(settings, service.settings.request_timeout)
    model = await service.loaded_model(asked.model)
    prompts = prompts_of(model, asked)
    _check_count(service, len(prompts) * (asked.n or 1))
    choices = choices_of(sampling, asked.n)
    job = _asked(service, "text_completion", asked)
    for number, prompt in enumerate(prompts):
        echo = await while_connected(request, prompt.echo(model, asked.logprobs)) if asked.echo else None
        for chosen in choices:
            job.add(_nothing(model, prompt) if only_echo else prompt.answer(model, chosen), number, echo)
    return await _respond(request, job, asked.stream)


@router.post("/embeddings", response_model=None)
async def embeddings(request: Request, asked: EmbeddingRequest) -> Response:
    """Vectors of texts, of unit length: by the bundled embedder, or by the model if it is an embedding model."""
    return JSONResponse(await while_connected(request, embedded(service_of(request), asked)))


# -- answers -------------------------------------------------------------------------------------------------------


def _asked(service: Service, kind: str, asked: Settings) -> Asked:
    heading = Heading(kind, asked.model or service.names[0], as_ids=asked.return_tokens_as_token_ids)
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    return Asked(service, heading, with_usage=with_usage)


async def _respond(request: Request, job: Asked, stream: bool | None) -> Response:
    events = together(job.answers)
    if not stream:
        return JSONResponse(await while_connected(request, _collected(job, events)))
    try:  # an error before the first piece still has a status of its own
        first = await while_connected(request, anext(events))
    except BaseException:
        await events.aclose()
        raise
    job.first_came()
    return EventStream(_pieces(job, first, events))


async def _collected(job: Asked, events: AsyncGenerator[tuple[int, Delta], None]) -> dict[str, Any]:
    heard: list[list[Delta]] = [[] for _ in job.answers]
    async with aclosing(events):
        async for index, delta in events:
            if not any(heard):
                job.first_came()
            heard[index].append(delta)
    whole = [joined(deltas) for deltas in heard]
    usage = _counted(job, [completion.usage for completion in whole])
    return job.heading.whole([job.heading.choice(i, c, job.echoes[i]) for i, c in enumerate(whole)], usage)


async def _pieces(
    job: Asked, first: tuple[int, Delta], events: AsyncGenerator[tuple[int, Delta], None]
) -> AsyncGenerator[bytes, None]:
    heading, usages = job.heading, dict[int, Usage]()
    lengths = [len(echo.text) if echo else 0 for echo in job.echoes]
    try:
        for opening in _openings(job):
            yield event(heading.piece([opening]))
        async with aclosing(events):
            async for index, delta in _again(first, events):
                change = heading.change(index, delta.text, delta.finish_reason, delta.logprobs, lengths[index])
                lengths[index] += len(delta.text)
                if delta.usage is not None:
                    usages[index] = delta.usage
                yield event(heading.piece([change]))
        usage = _counted(job, [usages[index] for index in range(len(job.answers))])
        if job.with_usage:
            yield event(heading.piece([], usage))
        yield DONE
    except Exception as error:
        yield event(told(error)[1])
    except BaseException:  # the client went away
        job.service.metrics.cancelled.inc()
        raise


def _openings(job: Asked) -> list[dict[str, Any]]:
    if job.heading.is_chat:
        return [job.heading.opening(index) for index in range(len(job.answers))]
    return [job.heading.echo(index, echo) for index, echo in enumerate(job.echoes) if echo]


async def _again(
    first: tuple[int, Delta], events: AsyncGenerator[tuple[int, Delta], None]
) -> AsyncGenerator[tuple[int, Delta], None]:
    yield first
    async for item in events:
        yield item


def _counted(job: Asked, usages: list[Usage]) -> Usage:
    usage = summed(usages, job.prompts)
    job.service.metrics.count(usage)
    return usage


async def _nothing(model: Model, prompt: Prompt) -> AsyncGenerator[Delta, None]:
    """An answer of no tokens, for a prompt that is only scored."""
    ids = await asyncio.to_thread(prompt.ids, model)
    yield Delta("", "length", Usage(len(ids)))


def _check_count(service: Service, count: int) -> None:
    most = service.settings.most_choices
    if count > most:
        raise BadInput(f"The request asks for {count} answers; at most {most} may be asked for at once.", "Split it.")


# -- models ----------------------------------------------------------------------------------------------------------


def _names(request: Request) -> list[str]:
    service = service_of(request)
    return [*service.names[:1], service.embedder_name]


async def _described(service: Service, name: str) -> dict[str, Any]:
    told_of = {"id": name, "object": "model", "created": service.created, "owned_by": "hanpaca"}
    if name == service.embedder_name:
        return told_of | {"kind": "embedding"}
    model = await service.loaded_model(name)
    kind = await asyncio.to_thread(lambda: model.kind)
    return told_of | {"kind": kind, "max_model_len": model.context_length}
