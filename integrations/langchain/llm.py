"""`HanpacaLLM`: text in, text out, over `hanpaca.Model`. Translates types and nothing else."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.language_models.base import LangSmithParams
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from ...core import Completion, Delta, Message, Model
from .messages import logprobs_of, response_metadata, usage_metadata
from .options import SAMPLING, ModelOptions


class HanpacaLLM(ModelOptions, BaseLLM):
    """A text model that runs on this machine. Several prompts are one true batch.

    A base model continues the prompt as it is. For a chat model the prompt becomes one user turn, because a chat
    model that is given bare text repeats it or talks to itself; `raw=True` sends it as it is there too.
    """

    raw: bool = False
    """Send the prompt as it is, also to a chat model."""

    @property
    def _llm_type(self) -> str:
        return "hanpaca"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {**self._identity(), "raw": self.raw}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return self._traced("llm", stop, kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """The text's ids by the model's own tokenizer, no BOS."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._loaded().engine.tokenize(text)

    def generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        """LangChain's own, whose cache does not look at a call's settings: they become an object's, which it sees."""
        told, rest = self._told(kwargs)
        return super(HanpacaLLM, told).generate(prompts, *args, **rest)

    async def agenerate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        """As `generate`."""
        told, rest = self._told(kwargs)
        return cast(LLMResult, await super(HanpacaLLM, told).agenerate(prompts, *args, **rest))

    def _told(self, given: dict[str, Any]) -> tuple[HanpacaLLM, dict[str, Any]]:
        """This object with the settings of a call, and what else the call gave."""
        names = {*SAMPLING, "model"} - {"stop"}  # stop texts are LangChain's own argument, and part of its key
        settings = {name: given[name] for name in names if given.get(name) is not None}
        rest = {name: value for name, value in given.items() if name not in names}
        return (self.model_copy(update=settings) if settings else self), rest

    def _wraps(self, model: Model, prompts: Sequence[str]) -> bool:
        """Whether prompts become user turns. Warns about prompts that are templates or conversations already."""
        if self.raw or model.kind == "base":
            return False
        if any("[INST]" in prompt or "<|im_start|>" in prompt for prompt in prompts):
            warnings.warn(
                "The prompt holds a chat template already, and this chat model adds its own. "
                "Give the text alone, or pass raw=True to send the prompt as it is.",
                stacklevel=2,
            )
        if any(prompt.startswith(("System: ", "Human: ")) for prompt in prompts):
            warnings.warn(
                "Messages became one text, which this chat model reads as one turn of the user. "
                "Give them to ChatHanpaca, which keeps the roles.",
                stacklevel=2,
            )
        return True

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        model, sampling = self._loaded(kwargs.pop("model", None)), self._sampling(stop, **kwargs)
        if self._wraps(model, prompts):
            return _result(model, model.chat_batch([_turn(prompt) for prompt in prompts], sampling))
        return _result(model, model.complete_batch(prompts, sampling))

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        model, sampling = self._loaded(kwargs.pop("model", None)), self._sampling(stop, **kwargs)
        if await asyncio.to_thread(self._wraps, model, prompts):  # may load the weights
            return _result(model, await model.achat_batch([_turn(prompt) for prompt in prompts], sampling))
        return _result(model, await model.acomplete_batch(prompts, sampling))

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        model, sampling = self._loaded(kwargs.pop("model", None)), self._sampling(stop, **kwargs)
        wraps = self._wraps(model, [prompt])
        deltas = model.stream_chat(_turn(prompt), sampling) if wraps else model.stream_complete(prompt, sampling)
        for delta in deltas:
            chunk = _chunk(model, delta)
            if run_manager:
                run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        model, sampling = self._loaded(kwargs.pop("model", None)), self._sampling(stop, **kwargs)
        wraps = await asyncio.to_thread(self._wraps, model, [prompt])
        deltas = model.astream_chat(_turn(prompt), sampling) if wraps else model.astream_complete(prompt, sampling)
        async with aclosing(cast(Any, deltas)) as open_deltas:
            async for delta in open_deltas:
                chunk = _chunk(model, delta)
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk


def _turn(prompt: str) -> list[Message]:
    return [Message("user", prompt)]


def _chunk(model: Model, delta: Delta) -> GenerationChunk:
    info: dict[str, Any] = {}
    if delta.logprobs:
        info["logprobs"] = {"content": logprobs_of(delta.logprobs)}
    if delta.finish_reason is not None:
        info.update(response_metadata(model.name, delta.finish_reason))
        info["usage"] = usage_metadata(delta.usage) if delta.usage else None
    return GenerationChunk(text=delta.text, generation_info=info or None)


def _result(model: Model, completions: Sequence[Completion]) -> LLMResult:
    return LLMResult(
        generations=[[_generation(model, completion)] for completion in completions],
        llm_output={"model_name": model.name},
    )


def _generation(model: Model, completion: Completion) -> Generation:
    info = response_metadata(model.name, completion.finish_reason)
    info["usage"] = usage_metadata(completion.usage)
    if completion.logprobs:
        info["logprobs"] = {"content": logprobs_of(completion.logprobs)}
    return Generation(text=completion.text, generation_info=info)
