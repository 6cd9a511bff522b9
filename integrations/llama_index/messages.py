"""LlamaIndex's messages and responses ↔ ours. Translates types and nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
)

from ...core import Completion, Delta, Message, TokenLogprob, Usage
from ...core.chat import Role
from ...core.errors import UnsupportedFeature

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
}


def to_messages(messages: Iterable[ChatMessage]) -> list[Message]:
    """Our messages. Raises `UnsupportedFeature` for tool messages and for anything but text."""
    return [Message(_role(message), text_of(message)) for message in messages]


def _role(message: ChatMessage) -> Role:
    role = message.role.value
    if role not in ROLES:
        raise UnsupportedFeature(
            f"This model reads no {role} messages.", "Leave tool messages out, or use structured_predict."
        )
    return ROLES[role]


def text_of(message: ChatMessage) -> str:
    """The text blocks, a line each as in `ChatMessage.content`, without thoughts and cache points, which are no part of
    what was said. Raises `UnsupportedFeature` for other blocks."""
    for block in message.blocks:
        if not isinstance(block, TextBlock | ThinkingBlock | CachePoint):
            raise UnsupportedFeature(f"This model reads text, not {block.block_type!r} blocks.", "Give text only.")
    return message.content or ""


class Responses:
    """The responses of one answer as it grows: LlamaIndex wants the text so far in each of them."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self.text = ""

    def chat(self, delta: Delta) -> ChatResponse:
        """The chat response after one more piece."""
        return ChatResponse(message=ChatMessage(self._grown(delta), role=MessageRole.ASSISTANT), **self._fields(delta))

    def completion(self, delta: Delta) -> CompletionResponse:
        """The completion response after one more piece."""
        return CompletionResponse(text=self._grown(delta), **self._fields(delta))

    def _grown(self, delta: Delta) -> str:
        self.text += delta.text
        return self.text

    def _fields(self, delta: Delta) -> dict[str, Any]:
        fields: dict[str, Any] = {"delta": delta.text}
        if delta.logprobs:
            fields["logprobs"] = to_logprobs(delta.logprobs)
        if delta.finish_reason is not None and delta.usage is not None:
            fields["raw"] = raw(self._model_name, delta.finish_reason, delta.usage)
            fields["additional_kwargs"] = fields["raw"]["usage"]
        return fields


def whole(completion: Completion) -> Delta:
    """A whole answer as the only piece of itself."""
    return Delta(completion.text, completion.finish_reason, completion.usage, completion.logprobs)


def raw(model_name: str, finish_reason: str, usage: Usage) -> dict[str, Any]:
    """What a response's `raw` holds: token counts, why the answer ended, which model gave it."""
    counts = {**dataclasses.asdict(usage), "total_tokens": usage.total_tokens}
    return {"model": model_name, "finish_reason": finish_reason, "usage": counts}


def to_logprobs(tokens: Sequence[TokenLogprob]) -> list[list[LogProb]]:
    """For each token its own log-probability first, then those of the likeliest ones."""

    def entry(text: bytes, logprob: float) -> LogProb:
        return LogProb(token=text.decode("utf-8", "replace"), logprob=logprob, bytes=list(text))

    return [
        [entry(token.text, token.logprob), *(entry(text, logprob) for _, text, logprob in token.top)]
        for token in tokens
    ]
