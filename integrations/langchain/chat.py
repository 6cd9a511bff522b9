"""`ChatHanpaca`: a LangChain chat model over `hanpaca.Model`. Translates types and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, nullcontext
from typing import Any, Self, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from pydantic import BaseModel

from ...core import Completion, Message, Model, Sampling
from ...core.adapting import refuse_unknown
from ...core.engines.streams import waiting
from ...core.errors import BadInput
from .messages import as_chunk, logprobs_of, response_metadata, to_chunk, to_messages, usage_metadata
from .options import SAMPLING, ModelOptions
from .structured import schema_of_format, structured
from .tools import OPTIONS as TOOL_SETTINGS
from .tools import Tools, bound, read_answer

CALL_SETTINGS = (*SAMPLING, "model", "response_format", *TOOL_SETTINGS)
"""What a call may say, besides LangChain's own arguments."""
_Asked = tuple[Model, list[Message], Sampling, bool]
"""The model, the prompt, the settings, and whether the answer may be a tool call."""


class ChatHanpaca(ModelOptions, BaseChatModel):
    """A chat model that runs on this machine, in the place of any other chat model class.

    >>> ChatHanpaca(model="smollm2", temperature=0).invoke("What is a llama?")   # doctest: +SKIP

    Options are the fields of `ModelOptions`; unknown ones raise `BadInput`. A call may give any of the sampling
    settings again, and `model=` for another model.
    """

    streaming: bool = False
    """Stream inside `invoke` too, so that callbacks see each piece."""
    tool_calling: bool = False
    """Allow `bind_tools`. Constrained decoding makes every call valid; that a small model chooses well among tools, or
    calls one when it should, cannot be promised."""

    @property
    def _llm_type(self) -> str:
        return "hanpaca-chat"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self._identity()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._traced("chat", stop, kwargs)

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """LangChain's key of a cached answer, with the files of a model that the call names."""
        key, named = super()._get_llm_string(stop, **kwargs), kwargs.get("model")
        return key if named is None else f"{key}---{self._known_identity(named)}"

    def _resolve_model_profile(self) -> ModelProfile:
        """What LangChain plans by; known without loading anything."""
        calls, constrained = self.tool_calling, self._engine_name() != "transformers"
        profile = ModelProfile(structured_output=constrained, tool_calling=calls, tool_choice=calls)
        profile.update(ModelProfile(text_inputs=True, text_outputs=True, image_inputs=False, audio_inputs=False))
        context = self._known_context()
        if context is not None:
            profile["max_input_tokens"] = context
        return profile

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy whose profile is that of its own options, unless a profile was given."""
        copy = super().model_copy(update=update, deep=deep)
        if "profile" not in (update or {}) and self.profile == self._resolve_model_profile():
            copy.profile = copy._resolve_model_profile()
        return copy

    def get_token_ids(self, text: str) -> list[int]:
        """The text's ids by the model's own tokenizer, no BOS."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._loaded().engine.tokenize(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the whole prompt, the template's and what is told of `tools` included; 0 for no messages."""
        told = Tools.taken_from({"tools": tools}, allowed=self.tool_calling)
        shown = [told.message()] if told is not None else []
        asked = [*shown, *to_messages(messages, tools=self.tool_calling)]
        # No messages are no prompt, but `trim_messages` counts them when nothing else fits.
        return self._loaded().count_tokens(asked) if asked else 0

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """A runnable whose answer matches `schema` because nothing else can be generated.

        `schema` is a Pydantic class, a TypedDict or a JSON schema. An answer cut off by `max_tokens` raises
        `OutputParserException`. `method` and `strict` are accepted; every method is the same real constraint here.
        """
        return structured(self, schema, include_raw=include_raw, **kwargs)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """A runnable that may answer with a call of one of `tools`, if the model was built with `tool_calling=True`.

        `tool_choice`: auto, any (or required, or True), none, or a tool's name. No tools at all is always allowed.
        `kwargs` are settings of the call; `strict` and `parallel_tool_calls=False` are accepted, and are so anyway.
        Raises `UnsupportedFeature` where `tool_calling` is off, `BadInput` for other names.
        """
        given = {"tools": tools, "tool_choice": tool_choice, **kwargs}
        return bound(self, given, allowed=self.tool_calling, valid=CALL_SETTINGS)

    def batch(self, *args: Any, **kwargs: Any) -> list[AIMessage]:
        """LangChain's own, whose calls wait for room in the engine's queue; a single call hears `Busy`."""
        with waiting():
            return super().batch(*args, **kwargs)

    async def abatch(self, *args: Any, **kwargs: Any) -> list[AIMessage]:
        """As `batch`."""
        with waiting():
            return await super().abatch(*args, **kwargs)

    async def agenerate(self, messages: list[list[BaseMessage]], *args: Any, **kwargs: Any) -> LLMResult:
        """LangChain's own; several conversations are a batch."""
        with waiting() if len(messages) > 1 else nullcontext():
            return cast(LLMResult, await super().agenerate(messages, *args, **kwargs))

    def _asked(self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> _Asked:
        given = {name: value for name, value in given.items() if name != "stream"}
        refuse_unknown(f"one call of {type(self).__name__}", given, CALL_SETTINGS)
        model = self._loaded(given.pop("model", None))
        tools = Tools.taken_from(given, allowed=self.tool_calling)
        if (response_format := given.pop("response_format", None)) is not None:
            given["json_schema"] = schema_of_format(response_format)
        if tools is not None:
            given["json_schema"] = tools.schema(given.get("json_schema") or self.json_schema)
        if given.get("json_schema") and (given.get("grammar") or self.grammar):
            raise BadInput(
                "A grammar leaves no room for structured output, tools, response_format or json_schema.",
                "Use a ChatHanpaca without grammar for them.",
            )
        if tools is not None:
            return model, [tools.message(), *to_messages(messages, tools=True)], self._sampling(stop, **given), True
        return model, to_messages(messages, tools=self.tool_calling), self._sampling(stop, **given), False

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model, ours, sampling, tools = self._asked(messages, stop, kwargs)
        return _result(model, model.chat(ours, sampling), tools)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model, ours, sampling, tools = self._asked(messages, stop, kwargs)
        return _result(model, await model.achat(ours, sampling), tools)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if kwargs.get("tools"):  # whether it is an answer or a call is known at its end
            yield as_chunk(self._generate(messages, stop, None, **kwargs))
            return
        model, ours, sampling, _ = self._asked(messages, stop, kwargs)
        for delta in model.stream_chat(ours, sampling):
            yield to_chunk(delta, model.name)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        if kwargs.get("tools"):
            yield as_chunk(await self._agenerate(messages, stop, None, **kwargs))
            return
        model, ours, sampling, _ = self._asked(messages, stop, kwargs)
        async with aclosing(cast(Any, model.astream_chat(ours, sampling))) as deltas:
            async for delta in deltas:
                yield to_chunk(delta, model.name)


def _result(model: Model, completion: Completion, tools: bool = False) -> ChatResult:
    metadata = response_metadata(model.name, completion.finish_reason)
    if completion.logprobs:
        metadata["logprobs"] = {"content": logprobs_of(completion.logprobs)}
    usage = usage_metadata(completion.usage)
    if tools:
        message = read_answer(completion, metadata)
        message.usage_metadata = usage
    else:
        message = AIMessage(content=completion.text, response_metadata=metadata, usage_metadata=usage)
    return ChatResult(generations=[ChatGeneration(message=message, generation_info=metadata)])
