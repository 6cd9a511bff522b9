"""What OpenAI's clients send, and the fields that this server adds. Unknown fields are refused, none is ignored.

Fields of OpenAI that change no answer here (`user`, `metadata`, …) are accepted; those that would need something this
server has not are refused by `openai_settings.py`, with what to do instead. Knows no model.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MOST_STOPS = 64
MOST_INPUTS = 2048
"""Texts of one request for embeddings, as with OpenAI."""
Stop = Annotated[str, Field(min_length=1)] | Annotated[list[str], Field(max_length=MOST_STOPS)]


class Strict(BaseModel):
    """A body whose every field is known."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, value: Any) -> Any:
        """Clients that write every field write null for what they do not set."""
        if not isinstance(value, dict):
            return value
        optional = {field.alias or name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: one for name, one in value.items() if one is not None or name not in optional}


class TextPart(Strict):
    """A part of a message's content; images and sounds are refused."""

    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    """One message. What a client sends back of answers is accepted where it is empty or changes nothing."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    """Who speaks; no prompt of these models has a place for it."""
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    parsed: Any = None
    """What OpenAI's `parse()` made of the content, which holds the same."""
    reasoning_content: str | None = None
    """What another model thought before it answered; not sent to this one."""

    @model_validator(mode="before")
    @classmethod
    def _no_tools(cls, value: Any) -> Any:
        if isinstance(value, dict) and (value.get("role") in ("tool", "function") or value.get("tool_calls")):
            raise ValueError(
                "The models served here were not trained to call tools. Leave out the messages of tools and the calls."
            )
        return value

    @field_validator("content", mode="before")
    @classmethod
    def _only_text(cls, value: Any) -> Any:
        for part in value if isinstance(value, list) else ():
            if isinstance(part, dict) and part.get("type") != "text":
                kind = str(part.get("type"))[:40]
                raise ValueError(f"The model reads text only, no part of type {kind!r}. Send its text, or nothing.")
        return value

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class JsonSchema(Strict):
    """The schema of a `response_format`."""

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Strict):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Strict):
    """What a stream tells besides its text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None
    """Accepted and without effect: pieces are not padded."""


class Settings(Strict):
    """How an answer is chosen: OpenAI's names, the predecessor's, and those of `hanpaca.Sampling`."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_last_n: int | None = None
    mirostat: int | None = None
    mirostat_tau: float | None = None
    mirostat_eta: float | None = None
    seed: int | None = None
    stop: Stop | None = None
    logit_bias: dict[int, float] | None = None
    grammar: str | None = None
    """A grammar in llama.cpp's notation (GBNF)."""
    timeout: float | None = None
    """Seconds after which the request ends."""
    n: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    return_tokens_as_token_ids: bool = False
    """Write tokens in `logprobs` as "token_id:123", which tells them apart where their text does not."""
    do_sample: bool | None = None
    """The predecessor's: false takes the likeliest token."""
    num_beams: int | None = None
    """The predecessor's: 1."""
    best_of: int | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _few_stops(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > MOST_STOPS:
            raise ValueError(f"There are {len(value):,} stop texts. Give {MOST_STOPS} at most.")
        return value

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _no_bias(cls, value: Any) -> Any:
        return value or None


class ChatRequest(Settings):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    store: bool | None = None
    """Accepted and without effect: nothing is ever stored here."""
    reasoning_effort: str | None = None
    """Accepted and without effect, as `verbosity` and `prediction`: the models here have no such dial."""
    verbosity: str | None = None
    prediction: dict[str, Any] | None = None
    use_documents: bool = False
    """Answer the last message from the documents of a library, with sources."""
    library: str | None = None
    """Which one; the server's own unless named."""
    filters: dict[str, Any] | None = None
    """Which documents: files, folders, kinds, after, before."""
    mode: Literal["auto", "stuff", "focus", "refine", "map_reduce", "extract"] | None = None
    """How to answer from documents; `extract` quotes them without a model."""
    k: Annotated[int, Field(ge=1, le=100)] | None = None
    """How many passages to answer from; 5."""


Ids = Annotated[list[int], Field(min_length=1)]


class CompletionRequest(Settings):
    """`POST /v1/completions`. A prompt of token ids is computed as it is; a text becomes one turn of a chat model."""

    prompt: str | Ids | Annotated[list[str], Field(min_length=1)] | Annotated[list[Ids], Field(min_length=1)]
    logprobs: int | None = None
    echo: bool = False
    suffix: str | None = None
    raw: bool = False
    """Send a text as it is to a chat model too."""


class EmbeddingRequest(Strict):
    """`POST /v1/embeddings`."""

    input: str | Annotated[list[str], Field(min_length=1, max_length=MOST_INPUTS)] | list[int] | list[list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None
    input_type: Literal["passage", "query"] = "passage"
    """Search models see a question otherwise than a passage that may answer it."""

    @field_validator("input", mode="before")
    @classmethod
    def _not_too_many(cls, value: Any) -> Any:
        if isinstance(value, list) and len(value) > MOST_INPUTS:
            raise ValueError(f"There are {len(value):,} texts. Send {MOST_INPUTS:,} at most, and the rest afterwards.")
        return value
