"""`HanpacaLLM`: text in, text out, over `hanpaca.Model`. Translates types and nothing else."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseLLM
from langchain_core.language_models.base import LangSmithParams
from langchain_core.outputs import Generation, GenerationChunk, LLMResult

from ...core import Completion, Delta, Message, Model
from .messages import response_metadata, usage_metadata
from .options import ModelOptions


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

    def _wraps(self, model: Model, prompts: Sequence[str]) -> bool:
        """Whether prompts become user turns. Warns about prompts that are templates already."""
        if self.raw or model.kind == "base":
            return False
        if any("[INST]" in prompt or "<|im_start|>" in prompt for prompt in prompts):
            warnings.warn(
                "The prompt holds a chat template already, and this chat model adds its own. "
                "Give the text alone, or pass raw=True to send the prompt as it is.",
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
        if self._wraps(model, prompts):
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
        wraps = self._wraps(model, [prompt])
        deltas = model.astream_chat(_turn(prompt), sampling) if wraps else model.astream_complete(prompt, sampling)
        async for delta in deltas:
            chunk = _chunk(model, delta)
            if run_manager:
                await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
            yield chunk


def _turn(prompt: str) -> list[Message]:
    return [Message("user", prompt)]


def _chunk(model: Model, delta: Delta) -> GenerationChunk:
    info: dict[str, Any] | None = None
    if delta.finish_reason is not None:
        info = response_metadata(model.name, delta.finish_reason)
        info["usage"] = usage_metadata(delta.usage) if delta.usage else None
    return GenerationChunk(text=delta.text, generation_info=info)


def _result(model: Model, completions: Sequence[Completion]) -> LLMResult:
    generations = [
        [
            Generation(
                text=completion.text,
                generation_info={
                    **response_metadata(model.name, completion.finish_reason),
                    "usage": usage_metadata(completion.usage),
                },
            )
        ]
        for completion in completions
    ]
    return LLMResult(generations=list(generations), llm_output={"model_name": model.name})
