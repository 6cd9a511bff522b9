"""A request's fields → `hanpaca.Sampling`, or a refusal that says what to do. Knows no route and no answer."""

from __future__ import annotations

from typing import Any

from ...core import Message, Sampling
from ...core.errors import BadInput, UnsupportedFeature
from .openai_types import ChatRequest, CompletionRequest, Settings

_SAME = tuple(name for name in Sampling.names() if name in Settings.model_fields)
"""Settings that have one name here and there."""
LARGEST_SEED = 2**32 - 1


def sampling_of(asked: Settings, default_timeout: float | None) -> Sampling:
    """The settings of a request. Raises `BadInput`, and `UnsupportedFeature` for what no engine here has."""
    _refuse(asked)
    given: dict[str, Any] = {name: value for name in _SAME if (value := getattr(asked, name)) is not None}
    given.setdefault("timeout", default_timeout)
    if asked.do_sample is False:
        given["temperature"] = 0
    if asked.seed is not None:  # OpenAI's seeds have 64 bits and a sign
        given["seed"] = asked.seed % LARGEST_SEED
    if (schema := _schema(asked)) is not None:
        given["json_schema"] = schema
    if isinstance(asked, ChatRequest):
        given |= _chat_settings(asked)
    if isinstance(asked, CompletionRequest) and asked.logprobs is not None:
        given["logprobs"] = asked.logprobs
    return Sampling.of(given)


def choices_of(sampling: Sampling, n: int | None) -> list[Sampling]:
    """The settings of each of `n` answers: with a seed, each has a seed of its own."""
    if not n or n == 1:
        return [sampling]
    if sampling.seed is None:
        return [sampling] * n
    return [sampling.replace(seed=(sampling.seed + number) % LARGEST_SEED) for number in range(n)]


def messages_of(asked: ChatRequest) -> list[Message]:
    """The conversation; OpenAI's "developer" is another word for "system"."""
    return [
        Message("system" if message.role == "developer" else message.role, message.text) for message in asked.messages
    ]


def check_documents(asked: ChatRequest) -> None:
    """Raise `BadInput` for fields that do not go together with answers from documents, or only with them."""
    if not asked.use_documents:
        for name in ("library", "filters", "mode", "k"):
            if getattr(asked, name) is not None:
                raise BadInput(f"{name} is about documents.", 'Add "use_documents": true, or leave it out.')
        return
    for name in ("logprobs", "response_format", "grammar"):
        if getattr(asked, name):
            raise UnsupportedFeature(f"Answers from documents have no {name}.", "Leave it out.")
    if (asked.n or 1) != 1:
        raise UnsupportedFeature("There is one answer from documents at a time.", "Leave n out.")
    if asked.messages[-1].role != "user":
        raise BadInput("The last message must be the user's question.", "Put it at the end.")


def _chat_settings(asked: ChatRequest) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if asked.max_completion_tokens is not None:
        if asked.max_tokens not in (None, asked.max_completion_tokens):
            raise BadInput("max_tokens and max_completion_tokens differ.", "Give one of them.")
        given["max_tokens"] = asked.max_completion_tokens
    if asked.logprobs:
        given["logprobs"] = asked.top_logprobs or 0
    elif asked.top_logprobs:
        raise BadInput("top_logprobs needs logprobs.", 'Add "logprobs": true.')
    return given


def _schema(asked: Settings) -> dict[str, Any] | None:
    form = asked.response_format
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return {"type": "object"}
    if form.json_schema is None:
        raise BadInput("response_format has no json_schema.", 'Give {"name": …, "schema": {…}}.')
    return form.json_schema.schema_


def _refuse(asked: Settings) -> None:
    if asked.num_beams not in (None, 1):
        raise UnsupportedFeature("There is no beam search here.", "Leave num_beams out, or set it to 1.")
    if asked.best_of not in (None, asked.n or 1):
        raise UnsupportedFeature("best_of is not supported.", "Ask for n answers and choose among them.")
    if asked.stream_options is not None and not asked.stream:
        raise BadInput("stream_options needs a stream.", 'Add "stream": true.')
    if isinstance(asked, ChatRequest):
        _refuse_tools(asked)
        if asked.modalities not in (None, ["text"]):
            raise UnsupportedFeature("The model reads and writes text only.", "Leave modalities out.")
    elif isinstance(asked, CompletionRequest) and asked.suffix:
        raise UnsupportedFeature("Text cannot be filled in before a suffix.", "Leave suffix out.")


def _refuse_tools(asked: ChatRequest) -> None:
    offered = asked.tools or asked.functions
    chosen = asked.tool_choice or asked.function_call
    if (offered and chosen != "none") or chosen not in (None, "none", "auto"):
        raise UnsupportedFeature(
            "The models served here were not trained to call tools.",
            "Ask for an answer in a given form instead: response_format with a json_schema is enforced.",
        )
