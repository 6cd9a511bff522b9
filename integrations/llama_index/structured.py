"""Answers that match a Pydantic class, by constrained decoding: the model cannot write anything else.

Knows no model: it gives a JSON schema to `chat` and reads the answer. The schema itself is not put into the prompt; say
there what you want.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, cast

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.instrumentation.events.llm import (
    LLMStructuredPredictEndEvent,
    LLMStructuredPredictInProgressEvent,
    LLMStructuredPredictStartEvent,
)
from llama_index.core.program.utils import create_flexible_model
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from ...core.errors import BadInput, HanpacaError
from .options import HanpacaOptions

dispatcher = get_dispatcher(__name__)


class StructuredPrediction(HanpacaOptions):
    """The four forms of `structured_predict` by real constraint.

    Another `pydantic_program_mode` than the default leaves LlamaIndex's own way, which asks in words and parses.
    """

    @dispatcher.span
    def structured_predict(
        self,
        output_cls: type[Any],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """An object of `output_cls`. Raises `HanpacaError` where `max_tokens` or a stop text cut the answer off."""
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            return super().structured_predict(output_cls, cast(Any, prompt), llm_kwargs, **prompt_args)
        _started(output_cls, prompt, prompt_args)
        messages = self._messages_of(prompt, prompt_args)
        return _ended(_read(self.chat(messages, **_constrained(output_cls, llm_kwargs)), output_cls))

    @dispatcher.span
    async def astructured_predict(
        self,
        output_cls: type[Any],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Any:
        """`structured_predict` without blocking the event loop."""
        await self._ready(llm_kwargs)
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            return await super().astructured_predict(output_cls, cast(Any, prompt), llm_kwargs, **prompt_args)
        _started(output_cls, prompt, prompt_args)
        messages = self._messages_of(prompt, prompt_args)
        return _ended(_read(await self.achat(messages, **_constrained(output_cls, llm_kwargs)), output_cls))

    @dispatcher.span
    def stream_structured_predict(
        self,
        output_cls: type[Any],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        """What is known of the object as it is written; the last one is whole and of `output_cls`."""
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            yield from super().stream_structured_predict(output_cls, cast(Any, prompt), llm_kwargs, **prompt_args)
            return
        _started(output_cls, prompt, prompt_args)
        growing = _Growing(output_cls)
        messages = self._messages_of(prompt, prompt_args)
        for response in self.stream_chat(messages, **_constrained(output_cls, llm_kwargs)):
            if (known := growing.after(response)) is not None:
                yield known
        yield _ended(growing.whole())

    @dispatcher.span
    async def astream_structured_predict(
        self,
        output_cls: type[Any],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        """`stream_structured_predict` without blocking the event loop."""
        await self._ready(llm_kwargs)
        if self.pydantic_program_mode != PydanticProgramMode.DEFAULT:
            return await super().astream_structured_predict(output_cls, cast(Any, prompt), llm_kwargs, **prompt_args)

        async def gen() -> AsyncGenerator[Any, None]:
            _started(output_cls, prompt, prompt_args)
            growing = _Growing(output_cls)
            messages = self._messages_of(prompt, prompt_args)
            async for response in await self.astream_chat(messages, **_constrained(output_cls, llm_kwargs)):
                if (known := growing.after(response)) is not None:
                    yield known
            yield _ended(growing.whole())

        return gen()

    def _messages_of(self, prompt: BasePromptTemplate, prompt_args: dict[str, Any]) -> list[Any]:
        return self._extend_messages(prompt.format_messages(llm=self, **prompt_args))


class _Growing:
    """An object that is being written."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._output_cls, self._partial_cls = output_cls, create_flexible_model(output_cls)
        self._last: Any = None
        self._response: ChatResponse | None = None

    def after(self, response: ChatResponse) -> BaseModel | None:
        """What is known now; None where nothing new is."""
        self._response = response
        text = response.message.content or ""
        values = from_json(text, allow_partial="trailing-strings") if text.strip() else None
        if not isinstance(values, dict) or values == self._last:
            return None
        self._last = values
        known = self._partial_cls.model_validate(values)
        dispatcher.event(LLMStructuredPredictInProgressEvent(output=known))
        return known

    def whole(self) -> BaseModel:
        """The object. Raises `HanpacaError` where the answer was cut off."""
        assert self._response is not None
        return _read(self._response, self._output_cls)


def _constrained(output_cls: type[BaseModel], llm_kwargs: dict[str, Any] | None) -> dict[str, Any]:
    return {**(llm_kwargs or {}), "json_schema": output_cls.model_json_schema()}


def _read(response: ChatResponse, output_cls: type[BaseModel]) -> BaseModel:
    """The object. Its errors are no `ValueError`: LlamaIndex's query engines swallow those, and answer with nothing."""
    text = response.message.content or ""
    if response.raw["finish_reason"] == "length":  # type: ignore[index]  # always filled by `Responses`
        raise HanpacaError(f"The answer was cut off by max_tokens: {text[-40:]!r}.", "Allow more tokens.")
    try:
        return output_cls.model_validate_json(text)
    except ValidationError as error:
        if error.errors()[0]["type"] == "json_invalid":
            raise HanpacaError(
                f"The answer was cut off by a stop text: {text[-40:]!r}.", "Leave it out of structured answers."
            ) from error
        raise HanpacaError(
            f"The answer matches the schema, and {output_cls.__name__} refuses it: {error}.",
            "Say in the prompt what its validators want.",
        ) from error


def _started(output_cls: type[BaseModel], prompt: BasePromptTemplate, prompt_args: dict[str, Any]) -> None:
    """Tell that it begins. Raises `BadInput` for anything but a Pydantic class."""
    if not (isinstance(output_cls, type) and issubclass(output_cls, BaseModel)):
        raise BadInput(
            f"structured_predict fills a Pydantic class, not {output_cls!r:.60}.",
            "Define a class of pydantic.BaseModel, or give a JSON schema to chat(messages, json_schema=…).",
        )
    dispatcher.event(LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args))


def _ended(output: BaseModel) -> BaseModel:
    dispatcher.event(LLMStructuredPredictEndEvent(output=output))
    return output
