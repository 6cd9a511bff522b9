"""Which model, and how it chooses its words: the options of the LlamaIndex model, and the lazily loaded model.

Knows no messages and no prompts. The weights load at the first call and are shared by all objects of one process that
name the same model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.llms.llm import LLM
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, field_validator

from ...core import Model, Sampling, load
from ...core.adapting import refuse_fields, refuse_switches, refuse_unknown, settled
from ...core.catalog import resolve
from ...core.chat import SYSTEM_PROMPTS
from ...core.model import DEFAULT_NEW_TOKENS
from .pickling import state_of

SAMPLING = Sampling.names()
Key = tuple[str, int | None, str | None, SecretStr | None, str]


class HanpacaOptions(LLM):
    """The fields. None takes the default of `hanpaca.Sampling`."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())

    model: str = "smollm2"
    """A name from `hanpaca models`, or the path of a .gguf file."""
    context: int | None = None
    """Longest prompt and answer in tokens; None is the model's native context."""
    load_options: dict[str, Any] = Field(default_factory=dict)
    """More options of `hanpaca.load`, by name (threads, kv_type, …)."""
    api_key: SecretStr | None = Field(default=None, exclude=True)
    """Sent to the server of a model that runs on one. Never shown, and left out of `to_dict`."""

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

    _models: dict[Key, Model] = PrivateAttr(default_factory=dict)
    _at_hand: set[Key] = PrivateAttr(default_factory=set)

    def __init__(self, **values: Any) -> None:
        # Here and not in a validator: an error of ours stays what it is instead of becoming a ValidationError.
        refuse_unknown(type(self).__name__, values, type(self).model_fields)
        refuse_switches(values)
        super().__init__(**values)
        self._sampling({})
        refuse_fields(type(self).__name__, self.load_options, type(self).model_fields)

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("system_prompt", mode="after")
    @classmethod
    def _named_prompt(cls, prompt: str | None) -> str | None:
        """LlamaIndex sends the text itself, so that a name ("long", "none") becomes its text here."""
        return SYSTEM_PROMPTS.get(prompt, prompt) if prompt is not None else None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the loaded model: a copy in another process loads its own. Raises `BadInput` for a function
        of the user's that cannot be pickled."""
        return state_of(self, {"_models": {}, "_at_hand": set()})

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """A copy that loads its own model."""
        memo = {} if memo is None else memo
        memo[id(self._models)], memo[id(self._at_hand)] = {}, set()
        return super().__deepcopy__(memo)

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex plans prompts by. Loads the weights: only they know the context."""
        model = self.loaded()
        return LLMMetadata(
            context_window=model.context_length,
            num_output=self.max_tokens or min(DEFAULT_NEW_TOKENS, model.context_length // 4),
            is_chat_model=model.kind == "chat",
            is_function_calling_model=False,
            model_name=model.name,
        )

    def to_payload(self) -> dict[str, Any]:
        """What traces show of this object. Unlike `metadata` it loads nothing: it is asked for on the event loop."""
        sampling = self._sampling({})
        shown = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens, "seed": sampling.seed}
        return {"class_name": self.class_name(), "model_name": self.model, "context": self.context, **shown}

    def loaded(self, model: str | None = None) -> Model:
        """The `hanpaca.Model` of this object, or the one that a call names instead."""
        key = self._key(model)
        if key not in self._models:
            refuse_fields(type(self).__name__, self.load_options, type(self).model_fields)
            name, options = model or self.model, dict(self.load_options)
            if self.context is not None:
                options["context"] = self.context
            if self.api_key is not None and resolve(name).engine == "remote":
                options["api_key"] = self.api_key.get_secret_value()
            # Nothing heavy yet: of two threads that come here at once the first one's model serves both.
            self._models.setdefault(key, load(name, system_prompt=self.system_prompt, **options))
        return self._models[key]

    def _key(self, model: str | None = None) -> Key:
        """All that decides which model is loaded. Copies share what is loaded, and may differ in any of it."""
        options = repr(sorted(self.load_options.items()))
        return (model or self.model, self.context, self.system_prompt, self.api_key, options)

    async def _ready(self, given: Mapping[str, Any] | None = None) -> None:
        """Load the weights off the event loop, or wait there for another call that is loading them."""
        name = (given or {}).get("model")
        if (key := self._key(name)) not in self._at_hand:
            await asyncio.to_thread(lambda: self.loaded(name).engine)
            self._at_hand.add(key)

    def _sampling(self, given: Mapping[str, Any]) -> Sampling:
        """The constructor's settings, then the call's; stop texts of both. Raises `BadInput` on an unknown one."""
        call = {name: value for name, value in given.items() if name not in ("stop", "model")}
        return settled({name: getattr(self, name) for name in SAMPLING}, given.get("stop"), call)
