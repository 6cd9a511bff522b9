"""`ChatHanpaca`: a LangChain chat model over `hanpaca.Model`. Translates types and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from ...core import Completion, Message, Model, Sampling
from .messages import logprobs_of, response_metadata, to_chunk, to_messages, usage_metadata
from .options import ModelOptions
from .structured import structured

_Asked = tuple[Model, list[Message], Sampling]


class ChatHanpaca(ModelOptions, BaseChatModel):
    """A chat model that runs on this machine, in the place of any other chat model class.

    >>> ChatHanpaca(model="smollm2", temperature=0).invoke("What is a llama?")   # doctest: +SKIP

    Options are the fields of `ModelOptions`; unknown ones raise `BadInput`. A call may give any of the sampling
    settings again, and `model=` for another model.
    """

    @property
    def _llm_type(self) -> str:
        return "hanpaca-chat"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return self._identity()

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._traced("chat", stop, kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """The text's ids by the model's own tokenizer, no BOS."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._loaded().engine.tokenize(text)

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens of the whole prompt, the template's included."""
        return self._loaded().count_tokens(to_messages(messages))

    def with_structured_output(
        self, schema: dict[str, Any] | type, *, include_raw: bool = False, **kwargs: Any
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """A runnable whose answer matches `schema` because nothing else can be generated.

        `schema` is a Pydantic class, a TypedDict or a JSON schema. An answer cut off by `max_tokens` raises
        `OutputParserException`. `method` and `strict` are accepted; every method is the same real constraint here.
        """
        return structured(self, schema, include_raw=include_raw, **kwargs)

    def _asked(self, messages: list[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> _Asked:
        given = {name: value for name, value in given.items() if name != "stream"}
        model = self._loaded(given.pop("model", None))
        return model, to_messages(messages), self._sampling(stop, **given)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model, ours, sampling = self._asked(messages, stop, kwargs)
        return _result(model, model.chat(ours, sampling))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        model, ours, sampling = self._asked(messages, stop, kwargs)
        return _result(model, await model.achat(ours, sampling))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        model, ours, sampling = self._asked(messages, stop, kwargs)
        for delta in model.stream_chat(ours, sampling):
            yield to_chunk(delta, model.name)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        model, ours, sampling = self._asked(messages, stop, kwargs)
        async for delta in model.astream_chat(ours, sampling):
            yield to_chunk(delta, model.name)


def _result(model: Model, completion: Completion) -> ChatResult:
    metadata = response_metadata(model.name, completion.finish_reason)
    if completion.logprobs:
        metadata["logprobs"] = {"content": logprobs_of(completion.logprobs)}
    message = AIMessage(
        content=completion.text, response_metadata=metadata, usage_metadata=usage_metadata(completion.usage)
    )
    return ChatResult(generations=[ChatGeneration(message=message, generation_info=metadata)])
