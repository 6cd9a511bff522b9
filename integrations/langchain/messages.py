"""LangChain's messages ↔ ours. Translates types and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    ToolMessage,
)
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from ...core import Delta, Message, Usage
from ...core.chat import Role
from ...core.engines.base import TokenLogprob
from ...core.errors import BadInput, UnsupportedFeature

ROLES = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "ai": "assistant",
    "assistant": "assistant",
}
REASONING = ("reasoning", "thinking", "redacted_thinking")
CALLS = ("tool_call", "tool_call_chunk", "tool_use", "function_call")
"""Blocks that repeat what `tool_calls` of the same message says."""


def to_messages(messages: Iterable[BaseMessage], *, tools: bool = False) -> list[Message]:
    """Our messages. Raises `UnsupportedFeature` for pictures, sounds, files and, unless `tools`, tool messages.

    A tool call is shown as the model wrote it, and a tool's result as a message of the user. Raises `BadInput` for a
    call that could not be read when it was made.
    """
    return [_message(message, tools) for message in messages]


def _message(message: BaseMessage, tools: bool) -> Message:
    calls = getattr(message, "tool_calls", None)
    if not tools and (calls or message.type in ("tool", "function")):
        raise UnsupportedFeature(
            "Tool calls are off in this chat model.",
            "Leave tool messages out, use structured output, or build it with tool_calling=True.",
        )
    if unread := getattr(message, "invalid_tool_calls", None):
        raise BadInput(
            f"The conversation holds a tool call that could not be read: {unread[0].get('name')!r}.",
            "Leave that message out, or give the call in tool_calls with arguments that are a dict.",
        )
    if calls:
        said = [json.dumps({"tool": c["name"], "arguments": c["args"]}, ensure_ascii=False) for c in calls]
        return Message("assistant", "\n".join([*filter(None, [_text(message)]), *said]))
    if isinstance(message, ToolMessage | FunctionMessage):
        name = f" of {message.name}" if message.name else ""
        return Message("user", f"Result{name}: {_text(message)}")
    return Message(cast(Role, _role(message)), _text(message))


def _role(message: BaseMessage) -> str:
    role = (
        message.role.lower() if isinstance(message, ChatMessage) else message.type.removesuffix("MessageChunk").lower()
    )
    if role not in ROLES:
        raise BadInput(f"{role!r} is not a role this chat model knows.", f"Valid: {', '.join(ROLES)}.")
    return ROLES[role]


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(_text_of(block, message) for block in message.content)


def _text_of(block: str | dict[Any, Any], message: BaseMessage) -> str:
    if isinstance(block, str):
        return block
    kind = str(block.get("type"))
    if kind in REASONING and isinstance(message, AIMessage):
        return ""  # what another model thought is no part of what it said
    if kind in CALLS and isinstance(message, AIMessage):
        if message.tool_calls:
            return ""
        raise BadInput(f"A message holds a {kind} block and no tool_calls.", "Give the call in tool_calls too.")
    if kind not in ("text", "text-plain") or not isinstance(block.get("text"), str):
        raise UnsupportedFeature(f"This chat model reads text, not {kind!r} content.", "Give text blocks only.")
    return str(block["text"])


def usage_metadata(usage: Usage) -> UsageMetadata:
    """Our token counts in LangChain's names."""
    return UsageMetadata(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        input_token_details=InputTokenDetails(cache_read=usage.cached_tokens),
    )


def response_metadata(model_name: str, finish_reason: str) -> dict[str, Any]:
    """Which model answered, and why it stopped."""
    return {"model_name": model_name, "model_provider": "hanpaca", "finish_reason": finish_reason}


def logprobs_of(tokens: Iterable[TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities in the form that OpenAI made usual."""

    def entry(text: bytes, logprob: float) -> dict[str, Any]:
        return {"token": text.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(text)}

    return [
        {**entry(token.text, token.logprob), "top_logprobs": [entry(text, logprob) for _, text, logprob in token.top]}
        for token in tokens
    ]


def to_chunk(delta: Delta, model_name: str) -> ChatGenerationChunk:
    """One piece of a streamed answer; the last one carries usage, the model's name and why it stopped."""
    message = AIMessageChunk(content=delta.text)
    if delta.logprobs:
        message.response_metadata["logprobs"] = {"content": logprobs_of(delta.logprobs)}
    if delta.finish_reason is not None:
        message.response_metadata.update(response_metadata(model_name, delta.finish_reason))
        message.usage_metadata = usage_metadata(delta.usage) if delta.usage else None
        message.chunk_position = "last"
    return ChatGenerationChunk(message=message)


def as_chunk(result: ChatResult) -> ChatGenerationChunk:
    """A whole answer, tool calls included, as the only piece of a stream."""
    message = cast(AIMessage, result.generations[0].message)
    calls = [
        tool_call_chunk(name=call["name"], args=json.dumps(call["args"], ensure_ascii=False), id=call["id"], index=at)
        for at, call in enumerate(message.tool_calls)
    ]
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content=message.content,
            tool_call_chunks=calls,
            response_metadata=message.response_metadata,
            usage_metadata=message.usage_metadata,
            chunk_position="last",
        )
    )
