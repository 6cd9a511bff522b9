"""What the chat model and the text model have in common: options, the lazily loaded model, what identifies an answer.

Knows no messages and no prompts. Building an object loads nothing; the weights load at the first call and are shared
by all objects of one process that name the same model.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.language_models.base import LangSmithParams
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, field_validator

from ...core import Model, Sampling, load
from ...core.errors import BadInput

PROVIDER = "hanpaca"
SAMPLING = Sampling.names()


def refuse_unknown(cls: type[BaseModel], values: Mapping[str, Any]) -> None:
    """Raise `BadInput` for the first name that is no option of `cls`, with near names and the whole list."""
    valid = sorted(cls.model_fields)
    for name in sorted(set(values) - set(valid)):
        near = difflib.get_close_matches(name, valid, n=1)
        guess = f" Did you mean {near[0]}?" if near else ""
        raise BadInput(f"{name!r} is not an option of {cls.__name__}.{guess}", f"Valid: {', '.join(valid)}.")


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
    """More options of `hanpaca.load`, by name (threads, kv_type, …)."""

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

    streaming: bool = False
    """Stream inside `invoke` too, so that callbacks see each piece."""
    max_retries: int | None = None
    """Accepted because every chat model has it. A model on this machine has no connection to retry."""
    api_key: SecretStr | None = None
    """Accepted because every chat model has it. A model on this machine has no use for it."""

    _models: dict[str, Model] = PrivateAttr(default_factory=dict)

    def __init__(self, *args: Any, **values: Any) -> None:
        # Here and not in a validator: an error of ours stays what it is instead of becoming a ValidationError.
        refuse_unknown(type(self), values)
        super().__init__(*args, **values)
        self._sampling()

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, stop: Any) -> Any:
        return [stop] if isinstance(stop, str) else stop

    def __getstate__(self) -> dict[Any, Any]:
        """Everything but the loaded model: a copy in another process loads its own."""
        return {**super().__getstate__(), "__pydantic_private__": {"_models": {}}}

    def loaded(self) -> Model:
        """The `hanpaca.Model` of this object. It is loaded at its first use."""
        return self._loaded()

    def sampling(self) -> Sampling:
        """The settings of this object."""
        return self._sampling()

    def _loaded(self, model: str | None = None) -> Model:
        """The model of this object, or the one a call names instead."""
        name = model or self.model
        if name not in self._models:
            options = dict(self.load_options)
            if self.context is not None:
                options["context"] = self.context
            self._models[name] = load(name, system_prompt=self.system_prompt, **options)
        return self._models[name]

    def _sampling(self, stop: Sequence[str] | None = None, **settings: Any) -> Sampling:
        """The constructor's settings, then the call's; stop texts of both. Raises `BadInput` on an unknown one."""
        chosen = {name: value for name in SAMPLING if (value := getattr(self, name)) is not None}
        chosen.update({name: value for name, value in settings.items() if name not in SAMPLING or value is not None})
        both = [*(self.stop or ()), *([stop] if isinstance(stop, str) else stop or ())]
        return Sampling.of({**chosen, "stop": tuple(dict.fromkeys(both))})

    def _identity(self, model: str | None = None) -> dict[str, Any]:
        """Everything that can change an answer: files, adapters, template, context and sampling."""
        sampling = self._sampling()
        return {
            "model": model or self.model,
            "identity": self._loaded(model).identity,
            # Not as "stop": LangChain replaces that entry by the call's own, and two models would share an answer.
            "stop_texts": sampling.stop,
            **{name: getattr(sampling, name) for name in SAMPLING if name != "stop"},
        }

    def _traced(self, kind: str, stop: list[str] | None, given: Mapping[str, Any]) -> LangSmithParams:
        """What LangSmith shows of a call."""
        sampling = self._sampling(stop, **{name: given[name] for name in SAMPLING if name in given and name != "stop"})
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
