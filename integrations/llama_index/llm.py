"""`HanpacaLLM`: a LlamaIndex language model over `hanpaca.Model`. Translates types and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing, closing
from typing import Any, cast

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import default_completion_to_prompt
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import TokenAsyncGen

from ...core import Message, Model
from ...core.chat_jinja import encode_rendered
from ...core.engines import streams
from ...core.engines.base import Request
from .messages import Responses, text_of, to_messages, whole
from .structured import StructuredPrediction


class HanpacaLLM(StructuredPrediction):
    """A model that runs on this machine, in the place of any other LLM of LlamaIndex.

    >>> HanpacaLLM(model="smollm2", temperature=0).complete("What is a llama?")   # doctest: +SKIP

    Options are the fields of `HanpacaOptions`; unknown ones raise `BadInput`. A call may give any of the sampling
    settings again, and `model=` for another model. A chat model is given its own template, a base model LlamaIndex's
    plain text; `messages_to_prompt` and `completion_to_prompt` replace both. `query_wrapper_prompt` wraps the prompt of
    `complete`, of a chat model within the user's turn; the messages of `chat` go as they are. Asynchronous calls never
    block the event loop, and a cancelled one stops the model.
    """

    @classmethod
    def class_name(cls) -> str:
        """The name in serialized objects."""
        return "HanpacaLLM"

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """The answer to a conversation."""
        model, request = self._chat_request(messages, kwargs)
        return Responses(model.name).chat(whole(streams.complete(model.engine, [request])[0]))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """The answer to a prompt: one user turn of a chat model, the start of a base model's text.

        With `formatted` the prompt is in the model's own form already and goes as it is.
        """
        model, request = self._completion_request(prompt, formatted, kwargs)
        return Responses(model.name).completion(whole(streams.complete(model.engine, [request])[0]))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """`chat` piece by piece; the last response carries `raw`. Closing it stops the work."""
        model, request = self._chat_request(messages, kwargs)

        def gen() -> ChatResponseGen:
            responses = Responses(model.name)
            with closing(cast(Any, streams.stream(model.engine, request))) as deltas:
                for delta in deltas:
                    yield responses.chat(delta)

        return gen()

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """`complete` piece by piece."""
        model, request = self._completion_request(prompt, formatted, kwargs)

        def gen() -> CompletionResponseGen:
            responses = Responses(model.name)
            with closing(cast(Any, streams.stream(model.engine, request))) as deltas:
                for delta in deltas:
                    yield responses.completion(delta)

        return gen()

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """`chat` without blocking the event loop; cancelling the task stops the work."""
        await self._ready(kwargs)
        model, request = self._chat_request(messages, kwargs)
        return Responses(model.name).chat(whole((await streams.acomplete(model.engine, [request]))[0]))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """`complete` without blocking the event loop; cancelling the task stops the work."""
        await self._ready(kwargs)
        model, request = self._completion_request(prompt, formatted, kwargs)
        return Responses(model.name).completion(whole((await streams.acomplete(model.engine, [request]))[0]))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """`stream_chat` without blocking the event loop."""
        await self._ready(kwargs)
        model, request = self._chat_request(messages, kwargs)

        async def gen() -> ChatResponseAsyncGen:
            responses = Responses(model.name)
            async with aclosing(cast(Any, streams.astream(model.engine, request))) as deltas:
                async for delta in deltas:
                    yield responses.chat(delta)

        return gen()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """`stream_complete` without blocking the event loop."""
        await self._ready(kwargs)
        model, request = self._completion_request(prompt, formatted, kwargs)

        async def gen() -> CompletionResponseAsyncGen:
            responses = Responses(model.name)
            async with aclosing(cast(Any, streams.astream(model.engine, request))) as deltas:
                async for delta in deltas:
                    yield responses.completion(delta)

        return gen()

    async def apredict(self, prompt: BasePromptTemplate, **prompt_args: Any) -> str:
        """LlamaIndex's own, which asks for `metadata` on the event loop: the weights are loaded before."""
        await self._ready()
        return await super().apredict(prompt, **prompt_args)

    async def astream(self, prompt: BasePromptTemplate, **prompt_args: Any) -> TokenAsyncGen:
        """LlamaIndex's own, with the weights loaded off the event loop."""
        await self._ready()
        return await super().astream(prompt, **prompt_args)

    # -- prompts -------------------------------------------------------------------------------------------------

    def _chat_request(self, messages: Sequence[ChatMessage], given: Mapping[str, Any]) -> tuple[Model, Request]:
        model, sampling = self.loaded(given.get("model")), self._sampling(given)
        ours = to_messages(messages)
        if model.kind == "chat" and self.messages_to_prompt is generic_messages_to_prompt:
            return model, model.chat_request(ours, sampling)

        def render(contents: list[str]) -> str:
            shown = [ChatMessage(text, role=m.role) for text, m in zip(contents, messages, strict=True)]
            return str(cast(Any, self.messages_to_prompt)(self._extend_messages(shown)))

        tokens = encode_rendered(render, [text_of(message) for message in messages], model.engine)
        return model, model.token_request(tokens, sampling)

    def _completion_request(self, prompt: str, formatted: bool, given: Mapping[str, Any]) -> tuple[Model, Request]:
        model, sampling = self.loaded(given.get("model")), self._sampling(given)
        if formatted:
            # To a base model LlamaIndex's own prompts come this way, documents and all: nothing in them is a control
            # token. To a chat model only a caller's who knows its form.
            if model.kind != "chat":
                return model, model.request(prompt, sampling)
            return model, model.token_request(encode_rendered(lambda _: prompt, [], model.engine), sampling)
        wrapper = self.query_wrapper_prompt
        wrapped = prompt if wrapper is None else wrapper.format(query_str=prompt)
        if self.completion_to_prompt is not default_completion_to_prompt:
            render = cast(Any, self.completion_to_prompt)
            tokens = encode_rendered(lambda contents: str(render(contents[0])), [wrapped], model.engine)
            return model, model.token_request(tokens, sampling)
        if model.kind == "chat":
            return model, model.chat_request([Message("user", wrapped)], sampling)
        return model, model.request(self._extend_prompt(prompt), sampling)
