"""`question_answering`: a LangChain chain that answers from a library and says where each answer comes from.

The answering itself is `hanpaca.rag`'s; here its model is a `ChatHanpaca`, called through LangChain, so that callbacks,
tracing and rate limits see every call. Caches do not see the answer itself, which is always streamed. The retriever
says which library and how many passages; the search is the answer's own, and no run of a retriever in a trace.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator
from langchain_core.runnables.utils import AddableDict

from ...core import Message
from ...core.errors import BadInput
from ...rag import Answer, AnswerDelta, astream_answer, stream_answer
from ...rag.answers import Event
from ...rag.asking import MODES
from .chat import ChatHanpaca
from .messages import to_messages
from .retriever import HanpacaRetriever, to_document
from .through import ThroughLangChain, refuse_others, stoppable

INPUT = ("question", "history")


def question_answering(
    retriever: HanpacaRetriever, chat: ChatHanpaca | None = None, *, mode: str = "auto", abstain: bool = True
) -> Runnable[str | dict[str, Any], dict[str, Any]]:
    """A chain from a question to a dict: `answer`, `sources`, `context`, `notes`, `mode`, `refused`.

    The input is a question, or a dict with `question` and `history` (LangChain messages). `sources` are dicts with
    `number`, `file`, `page`, `line`, `quote`, `start`, `end` and `member`; `context` holds the passages as documents.
    Streamed, pieces of `answer` come first and everything else in the last chunk. `chat` None answers by quoting;
    `mode` is one of auto, stuff, focus, refine, map_reduce, extract; `abstain` refuses questions that the library does
    not answer.
    Tool calls and their results in `history` are left out. Raises `BadInput` for other classes than these, for a
    retriever with a search of its own, which would not be used, and for one that does not search both ways: answers
    need keywords and vectors.
    """
    if retriever is None:
        raise BadInput("question_answering needs a retriever.", "Give a HanpacaRetriever.")
    refuse_others(chat, retriever)
    if mode not in MODES:
        raise BadInput(f"{mode!r} is not a way to answer.", f"Valid: {', '.join(MODES)}.")
    _refuse_own_search(retriever)
    _refuse_mode(retriever)

    def options(
        given: str | Mapping[str, Any], config: RunnableConfig | None, loop: asyncio.AbstractEventLoop | None = None
    ) -> dict[str, Any]:
        question, history = _question(given)
        _refuse_mode(retriever)
        return {
            "library": retriever.opened,
            "model": ThroughLangChain(chat, config, loop) if chat is not None else None,
            "question": question,
            "history": history,
            "mode": mode,
            "abstain": abstain,
            "k": retriever.k,
            "filters": retriever.filters,
            "sampling": chat.sampling() if chat is not None else None,
        }

    def transform(inputs: Iterator[Any], config: RunnableConfig | None = None) -> Iterator[AddableDict]:
        for event in stream_answer(**options(_whole(list(inputs)), config)):
            yield _chunk(event, retriever)

    async def atransform(
        inputs: AsyncIterator[Any], config: RunnableConfig | None = None
    ) -> AsyncIterator[AddableDict]:
        # Opening the library may load the embedder: that happens off the event loop.
        whole = _whole([part async for part in inputs])
        given = await asyncio.to_thread(options, whole, config, asyncio.get_running_loop())
        stop = given["model"].stop if given["model"] is not None else None
        async with aclosing(stoppable(astream_answer(**given), stop)) as events:
            async for event in events:
                yield _chunk(event, retriever)

    return RunnableGenerator(transform, atransform, name="question_answering")


def _refuse_own_search(retriever: HanpacaRetriever) -> None:
    for name in ("_get_relevant_documents", "_aget_relevant_documents"):
        if getattr(type(retriever), name) is not getattr(HanpacaRetriever, name):
            raise BadInput(
                f"This chain searches the library itself, and {type(retriever).__name__} has a search of its own.",
                "Give a HanpacaRetriever, or write a chain: prompt | chat.",
            )


def _refuse_mode(retriever: HanpacaRetriever) -> None:
    if retriever.mode != "hybrid":
        raise BadInput(
            f"Questions are answered by hybrid search, and this retriever's mode is {retriever.mode!r}.",
            'Give question_answering a retriever with mode="hybrid".',
        )


def _whole(parts: list[Any]) -> Any:
    """The input, which may arrive in pieces when the chain stands behind another one that streams.

    By LangChain's rule, of pieces that cannot be added each holds all there is so far. No pieces are None.
    """
    whole = parts[0] if parts else None
    for part in parts[1:]:
        try:
            whole = whole + part
        except TypeError:
            whole = part
    return whole


def _question(given: str | Mapping[str, Any]) -> tuple[str, list[Message]]:
    if isinstance(given, str):
        return given, []
    if not isinstance(given, Mapping) or set(given) - set(INPUT) or not isinstance(given.get("question"), str):
        raise BadInput(
            "The chain takes a question as text, or a dict that holds one.", f"The dict's keys: {', '.join(INPUT)}."
        )
    return given["question"], to_messages(_spoken(given.get("history")))


def _spoken(history: Any) -> list[BaseMessage]:
    """What was said: no tool calls, and none of their results."""
    if not isinstance(history, Sequence | None) or isinstance(history, str):
        raise BadInput(f"history is a list of messages, not {history!r}.", "Such as [HumanMessage(…), AIMessage(…)].")
    try:
        messages = convert_to_messages(history or [])
    except (ValueError, NotImplementedError) as error:  # what LangChain says of a message it cannot read
        raise BadInput(f"history holds what is no message: {error}", "Give LangChain messages.") from error
    return [one for one in messages if one.type not in ("tool", "function") and not getattr(one, "tool_calls", None)]


def _chunk(event: Event, retriever: HanpacaRetriever) -> AddableDict:
    if isinstance(event, AnswerDelta):
        return AddableDict(answer=event.text)
    assert isinstance(event, Answer)
    return AddableDict(
        answer="",  # which every answer has, also one of which nothing was streamed
        sources=[dataclasses.asdict(citation) for citation in event.citations],
        context=[to_document(hit, retriever.opened.folder) for hit in event.hits],
        notes=list(event.notes),
        mode=event.mode,
        refused=event.refused,
    )
