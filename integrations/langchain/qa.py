"""`question_answering`: a LangChain chain that answers from a library and says where each answer comes from.

The answering itself is `hanpaca.rag`'s; here its model is a `ChatHanpaca`, called through LangChain, so that callbacks,
tracing, caches and rate limits see every call.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig, RunnableGenerator
from langchain_core.runnables.utils import AddableDict

from ...core import Completion, Delta, Message, Sampling, Usage
from ...core.errors import BadInput
from ...rag import Answer, AnswerDelta, astream_answer, stream_answer
from ...rag.answering import Event
from .chat import ChatHanpaca
from .messages import to_messages
from .retriever import HanpacaRetriever, to_document

INPUT = ("question", "history")


def question_answering(
    retriever: HanpacaRetriever, chat: ChatHanpaca | None, *, mode: str = "auto", abstain: bool = True
) -> Runnable[str | dict[str, Any], dict[str, Any]]:
    """A chain from a question to a dict: `answer`, `sources`, `context`, `notes`, `mode`, `refused`.

    The input is a question, or a dict with `question` and `history` (LangChain messages). `sources` are dicts with
    `number`, `file`, `page`, `line`, `quote`, `start` and `end`; `context` holds the passages as documents. Streamed,
    pieces of `answer` come first and everything else in the last chunk. `chat` None answers by quoting; `mode` is one
    of auto, stuff, refine, map_reduce, extract; `abstain` refuses questions that the library does not answer.
    """

    def options(given: str | Mapping[str, Any], config: RunnableConfig | None) -> dict[str, Any]:
        question, history = _question(given)
        return {
            "library": retriever.opened,
            "model": ThroughLangChain(chat, config) if chat is not None else None,
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
            yield _chunk(event)

    async def atransform(
        inputs: AsyncIterator[Any], config: RunnableConfig | None = None
    ) -> AsyncIterator[AddableDict]:
        given = _whole([part async for part in inputs])
        async for event in astream_answer(**options(given, config)):
            yield _chunk(event)

    return RunnableGenerator(transform, atransform, name="question_answering")


class ThroughLangChain:
    """A `ChatHanpaca` as the chat model that `hanpaca.rag` asks; each call goes through LangChain with its config."""

    def __init__(self, chat: ChatHanpaca, config: RunnableConfig | None) -> None:
        self._chat, self._config = chat, config
        self._model = chat.loaded()
        self.name, self.kind, self.languages = self._model.name, self._model.kind, self._model.languages

    @property
    def context_length(self) -> int:
        return self._model.context_length

    def count_tokens(self, text: str | Sequence[Message]) -> int:
        return self._model.count_tokens(text)

    def chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Completion:
        return _completion(self._chat.invoke(_theirs(messages), self._config, **_settings(sampling)))

    def chat_batch(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling | None = None
    ) -> list[Completion]:
        asked = [_theirs(messages) for messages in conversations]
        return [_completion(said) for said in self._chat.batch(list(asked), self._config, **_settings(sampling))]

    def stream_chat(self, messages: Sequence[Message], sampling: Sampling | None = None) -> Iterator[Delta]:
        for chunk in self._chat.stream(_theirs(messages), self._config, **_settings(sampling)):
            reason = chunk.response_metadata.get("finish_reason")
            yield Delta(chunk.text, reason, _usage(chunk) if reason else None)


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
    return Completion(message.text, str(message.response_metadata["finish_reason"]), _usage(message))


def _whole(parts: list[Any]) -> Any:
    """The input, which may arrive in pieces when the chain stands behind another one that streams."""
    whole = parts[0]
    for part in parts[1:]:
        whole = whole + part
    return whole


def _question(given: str | Mapping[str, Any]) -> tuple[str, list[Message]]:
    if isinstance(given, str):
        return given, []
    if not isinstance(given, Mapping) or "question" not in given or set(given) - set(INPUT):
        raise BadInput("The chain takes a question, or a dict.", f"The dict's keys are: {', '.join(INPUT)}.")
    return str(given["question"]), to_messages(convert_to_messages(given.get("history") or []))


def _chunk(event: Event) -> AddableDict:
    if isinstance(event, AnswerDelta):
        return AddableDict(answer=event.text)
    assert isinstance(event, Answer)
    return AddableDict(
        sources=[dataclasses.asdict(citation) for citation in event.citations],
        context=[to_document(hit) for hit in event.hits],
        notes=list(event.notes),
        mode=event.mode,
        refused=event.refused,
    )
