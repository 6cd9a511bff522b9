"""How tokens are chosen: one frozen dataclass that every engine and adapter shares.

Knows nothing of models. The defaults are the published ones of the Chinese-Alpaca-2 models.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import BadInput


@dataclass(frozen=True)
class Sampling:
    """Settings of one generation. Unknown names and values out of range raise `BadInput`."""

    max_tokens: int | None = None
    """Most new tokens, at least 1. None: what is left of the native window, at most 512."""
    temperature: float = 0.2
    """0 chooses the likeliest token (greedy); larger is more varied."""
    top_k: int = 40
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 0.9
    """Keep the smallest set of tokens whose probabilities sum to p (nucleus); 1 keeps all."""
    min_p: float = 0.0
    """Drop tokens less likely than min_p times the likeliest; 0 drops none."""
    typical_p: float = 1.0
    """Locally typical sampling; 1 is off."""
    repetition_penalty: float = 1.1
    """Divide the logits of recent tokens by this; 1 is off."""
    presence_penalty: float = 0.0
    """Subtract once from the logit of a token that has occurred."""
    frequency_penalty: float = 0.0
    """Subtract from the logit of a token for each time it has occurred."""
    penalty_last_n: int = 64
    """How many of the last generated tokens the three penalties look at; 0 is none, -1 all. Never the prompt."""
    mirostat: int = 0
    """0 off, 1 or 2: control perplexity instead of top-k and top-p. Costs about 3 ms a token."""
    mirostat_tau: float = 5.0
    """Mirostat's target entropy."""
    mirostat_eta: float = 0.1
    """Mirostat's learning rate."""
    seed: int | None = None
    """0 to 2**32 - 2; None draws one. The same seed and settings give the same tokens on the same machine where the
    same is computed with them: rounding differs with the other requests of a pass, and with what is cached."""
    stop: tuple[str, ...] = ()
    """Texts at which to stop; they are not part of the answer."""
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """Added to the logits of these token ids; -inf forbids one."""
    grammar: str | None = None
    """A GBNF grammar with a rule `root` that the answer must match."""
    json_schema: Mapping[str, Any] | None = None
    """A JSON schema that the answer must match. Keywords that cannot be enforced are refused."""
    logprobs: int | None = None
    """Report the chosen token's log-probability and those of this many likeliest alternatives (0 to 20)."""
    timeout: float | None = None
    """Seconds after which the request ends with `TimedOut`; None waits for ever."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if not isinstance(self.stop, Iterable | None):
            raise BadInput(f"stop must be a text or a list of texts, not {self.stop!r}.")
        object.__setattr__(self, "stop", tuple(self.stop or ()))
        for name, low, high in _RANGES:
            _check_number(name, getattr(self, name), low, high)
        for name in ("max_tokens", "top_k", "penalty_last_n", "mirostat", "seed", "logprobs"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
                raise BadInput(f"{name} must be a whole number, not {value!r}.")
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise BadInput("stop must hold non-empty texts.", "Leave it out to stop only at the end of the answer.")
        if self.grammar is not None and self.json_schema is not None:
            raise BadInput("grammar and json_schema cannot both be given.", "Choose one.")
        if self.grammar is not None and not isinstance(self.grammar, str):
            raise BadInput(f"grammar must be a text in GBNF, not {type(self.grammar).__name__}.")
        if self.json_schema is not None and not isinstance(self.json_schema, Mapping):
            raise BadInput(f"json_schema must be a JSON schema as a dict, not {type(self.json_schema).__name__}.")
        self._check_bias()

    def _check_bias(self) -> None:
        if not isinstance(self.logit_bias, Mapping):
            raise BadInput(f"logit_bias maps token ids to numbers; it is {self.logit_bias!r}.", "Such as {13: -1.5}.")
        for token, bias in self.logit_bias.items():
            fine = isinstance(token, int) and isinstance(bias, int | float) and (bias == -math.inf or abs(bias) <= 1e9)
            if not fine or isinstance(token, bool) or isinstance(bias, bool):
                raise BadInput(f"logit_bias maps token ids to numbers up to 1e9, or -inf, not {token!r} to {bias!r}.")

    def replace(self, **changes: Any) -> Sampling:
        """A copy with some settings changed. Raises `BadInput` on an unknown name, with the near and valid ones."""
        check_names(changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def of(cls, settings: Sampling | Mapping[str, Any] | None) -> Sampling:
        """`settings` as a Sampling: None gives the defaults, a mapping is checked by name."""
        if isinstance(settings, Sampling):
            return settings
        return cls().replace(**dict(settings or {}))

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The names of all settings."""
        return tuple(field.name for field in dataclasses.fields(cls))


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("max_tokens", 1, 2**31 - 1),
    ("temperature", 0, 100),
    ("top_k", 0, 2**31 - 1),
    ("top_p", 0, 1),
    ("min_p", 0, 1),
    ("typical_p", 0, 1),
    ("repetition_penalty", 0.01, 100),
    ("presence_penalty", -10, 10),
    ("frequency_penalty", -10, 10),
    ("penalty_last_n", -1, 2**20),
    ("mirostat", 0, 2),
    ("mirostat_tau", 0, 100),
    ("mirostat_eta", 0, 10),
    ("seed", 0, 2**32 - 2),
    ("logprobs", 0, 20),
    ("timeout", 0, math.inf),
)


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if value is None and name in ("max_tokens", "seed", "logprobs", "timeout"):
        return
    hint = "It counts alternatives: 0 reports the chosen tokens alone." if name == "logprobs" else ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{name} must be a number, not {value!r} of type {type(value).__name__}.", hint)
    if not low <= value <= high:
        upper = f" and at most {high:,}" if high != math.inf else ""
        raise BadInput(f"{name} must be at least {low:,}{upper}, not {value!r}.", hint)


def check_names(settings: Mapping[str, Any]) -> None:
    """Raise `BadInput` for the first name that is no setting, with near names and the whole list."""
    valid = Sampling.names()
    for name in settings:
        if name not in valid:
            near = difflib.get_close_matches(name, valid, n=1)
            guess = f" Did you mean {near[0]}?" if near else ""
            raise BadInput(f"{name!r} is not a sampling setting.{guess}", "Valid: " + ", ".join(valid) + ".")
