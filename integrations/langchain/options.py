"""What the chat model and the text model have in common: options, the lazily loaded model, what identifies an answer.

Knows no messages and no prompts. Building an object loads nothing; the weights load at the first call and are shared
by all objects of one process that name the same model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Self, cast

from langchain_core.language_models.base import LangSmithParams
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_validator

from ...core import Model, Sampling, load
from ...core.adapting import pickles, refuse_fields, refuse_switches, refuse_unknown, settled
from ...core.catalog import resolve, rope_for
from ...core.errors import HanpacaError

PROVIDER = "hanpaca"
SAMPLING = Sampling.names()
HANDLES = ("rate_limiter", "callbacks")
"""Fields that change no answer: a pickled copy goes without those that cannot be pickled."""
Key = tuple[str, int | None, str | None, SecretStr | None, str]


class ModelOptions(BaseModel):
    """Which model, and how it chooses its words. None takes the default of `hanpaca.Sampling`."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    model: str = "smollm2"
    """A name from `hanpaca models`, or the path of a .gguf file."""
    context: int | None = None
    """Longest prompt and answer in tokens; None is the model's native context."""
    system_prompt: str | None = None
    """Replaces the template's own; "" for none, "long" for the longer published one."""
    load_options: dict[str, Any] = Field(default_factory=dict)
    """More options of `hanpaca.load`, by name (threads, kv_type, engine, tokenizer, …) that are no fields here."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
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
    stop: list[str] | None = None
    """Texts at which to stop, together with those of a call."""
    logit_bias: dict[int, float] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    logprobs: int | None = None
    timeout: float | None = None

    max_retries: int | None = None
    """Accepted because every chat model has it; no call is repeated. For a server, use the runnable's `with_retry`."""
    api_key: SecretStr | None = None
    """Sent to the server, where the model is one; None: $HANPACA_API_KEY. A model on this machine has no use for it."""

    _models: dict[Key, Model] = PrivateAttr(default_factory=dict)
    _looked_up: set[Key] = PrivateAttr(default_factory=set)

    def __init__(self, *args: Any, **values: Any) -> None:
        # Here and not in a validator: an error of ours stays what it is instead of becoming a ValidationError.
        refuse_unknown(type(self).__name__, values, type(self).model_fields)
        refuse_switches(values)
        super().__init__(*args, **values)
        self._sampling()
        self._options_of_load()

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    def __getstate__(self) -> dict[Any, Any]:
        """Everything but the loaded model: a copy in another process loads its own."""
        state = super().__getstate__()
        left_out = {name: None for name in HANDLES if not pickles(state["__dict__"].get(name))}
        private: dict[str, Any] = {"_models": {}, "_looked_up": set()}
        return {**state, "__dict__": {**state["__dict__"], **left_out}, "__pydantic_private__": private}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that loads its own model, under the same limits and heard by the same callbacks."""
        memo = {} if memo is None else memo
        memo.update((id(handle), handle) for handle in (getattr(self, name, None) for name in HANDLES))
        memo[id(self._models)], memo[id(self._looked_up)] = {}, set()
        return super().__deepcopy__(memo)

    def loaded(self) -> Model:
        """The `hanpaca.Model` of this object. It is loaded at its first use."""
        return self._loaded()

    def sampling(self) -> Sampling:
        """The settings of this object."""
        return self._sampling()

    def _loaded(self, model: str | None = None) -> Model:
        """The model of this object, or the one a call names instead."""
        key = self._key(model)
        if key not in self._models:
            # Nothing heavy yet: of two threads that come here at once the first one's model serves both.
            self._models.setdefault(key, load(model or self.model, **self._options_of_load(model)))
        return self._models[key]

    def _options_of_load(self, model: str | None = None) -> dict[str, Any]:
        """What `hanpaca.load` is told. Raises `BadInput` for what is a field of this object."""
        refuse_fields(type(self).__name__, self.load_options, ModelOptions.model_fields)
        options = {**self.load_options, "system_prompt": self.system_prompt}
        if self.context is not None:
            options["context"] = self.context
        if self.api_key is not None and self._engine_name(model) == "remote":
            options["api_key"] = self.api_key.get_secret_value()
        return options

    def _key(self, model: str | None = None) -> Key:
        """All that decides which model is loaded. Copies share what is loaded, and may differ in any of it."""
        options = repr(sorted(self.load_options.items()))
        return (model or self.model, self.context, self.system_prompt, self.api_key, options)

    async def agenerate(self, *args: Any, **kwargs: Any) -> Any:
        """LangChain's own; what it asks on the event loop (`_identifying_params`) is looked up before, off it."""
        await self._ready(kwargs.get("model"))
        return await cast(Any, super()).agenerate(*args, **kwargs)

    async def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """LangChain's own, with the model looked up off the event loop."""
        await self._ready(kwargs.get("model"))
        async with aclosing(cast(Any, super()).astream(*args, **kwargs)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _ready(self, model: str | None = None) -> None:
        """Look the model up off the event loop: the first look at a packaged one may take seconds."""
        if self._key(model) not in self._looked_up:
            with suppress(HanpacaError, OSError):  # the call itself meets it again, and callbacks hear of it
                await asyncio.to_thread(self._look_up, model)

    def _look_up(self, model: str | None = None) -> Model:
        """The model, its files found and its identity known."""
        found = self._loaded(model)
        assert found.identity
        self._looked_up.add(self._key(model))
        return found

    def _sampling(self, stop: Sequence[str] | None = None, **settings: Any) -> Sampling:
        """The constructor's settings, then the call's; stop texts of both. Raises `BadInput` on an unknown one."""
        return settled({name: getattr(self, name) for name in SAMPLING}, stop, settings)

    def _known_context(self) -> int | None:
        """The window in tokens, as far as it is known without loading: by name, or from the files' headers."""
        try:
            return self.context or rope_for(self.model).native_context
        except HanpacaError:
            return None

    def _engine_name(self, model: str | None = None) -> str | None:
        """Which engine will run the model; None where it is not on this machine."""
        try:
            return self.load_options.get("engine") or resolve(model or self.model).engine
        except HanpacaError:
            return None

    def _identity(self, model: str | None = None) -> dict[str, Any]:
        """Everything that can change an answer: files, adapters, template, context and sampling."""
        sampling: Sampling | ModelOptions = self
        with suppress(HanpacaError):  # the call itself raises it, where callbacks hear of it
            sampling = self._sampling()
        return {
            "model": model or self.model,
            "identity": self._known_identity(model),
            # Not as "stop": LangChain replaces that entry by the call's own, and two models would share an answer.
            "stop_texts": sampling.stop,
            **{name: getattr(sampling, name) for name in SAMPLING if name != "stop"},
        }

    def _known_identity(self, model: str | None = None) -> str | None:
        """The model's files and options in one line; None where there is no such model.

        LangChain asks before any callback hears of the call: an error must come from the call itself.
        """
        try:
            return self._loaded(model).identity
        except (HanpacaError, OSError):
            return None

    def _traced(self, kind: str, stop: list[str] | None, given: Mapping[str, Any]) -> LangSmithParams:
        """What LangSmith shows of a call."""
        settings = {name: given[name] for name in SAMPLING if name in given and name != "stop"}
        try:
            sampling = self._sampling(stop, **settings)
        except HanpacaError:  # the call itself raises it, where callbacks hear of it
            sampling = Sampling()
        traced = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_name=str(given.get("model") or self.model),
            ls_model_type=kind,  # type: ignore[typeddict-item]  # "chat" or "llm"
            ls_temperature=sampling.temperature,
        )
        if sampling.max_tokens is not None:
            traced["ls_max_tokens"] = sampling.max_tokens
        if sampling.stop:
            traced["ls_stop"] = list(sampling.stop)
        return traced
