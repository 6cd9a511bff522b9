"""LangChain's messages ↔ ours. Translates types and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from langchain_core.messages import AIMessageChunk, BaseMessage, ChatMessage
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.outputs import ChatGenerationChunk

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


def to_messages(messages: Iterable[BaseMessage]) -> list[Message]:
    """Our messages. Raises `UnsupportedFeature` for pictures, sounds, files and tool messages."""
    return [Message(cast(Role, _role(message)), _text(message)) for message in messages]


def _role(message: BaseMessage) -> str:
    role = (
        message.role.lower() if isinstance(message, ChatMessage) else message.type.removesuffix("MessageChunk").lower()
    )
    if role == "tool" or role == "function" or getattr(message, "tool_calls", None):
        raise UnsupportedFeature(
            "Tool calls are not supported by this chat model.", "Leave tool messages out, or use structured output."
        )
    if role not in ROLES:
        raise BadInput(f"{role!r} is not a role this chat model knows.", f"Valid: {', '.join(ROLES)}.")
    return ROLES[role]


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    for block in message.content:
        kind = "text" if isinstance(block, str) else str(block.get("type"))
        if kind != "text":
            raise UnsupportedFeature(f"This chat model reads text, not {kind!r} content.", "Give text blocks only.")
    return "".join(block if isinstance(block, str) else str(block["text"]) for block in message.content)


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
