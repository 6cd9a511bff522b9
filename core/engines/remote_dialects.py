"""What the servers that speak OpenAI's API understand besides it: settings by their own names. Knows no network.

A setting that a server lacks is refused where it was changed; one that has its default is left to the server.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedFeature
from ..sampling import Sampling

_STANDARD = {name: name for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed")}
_MIROSTAT = {name: name for name in ("mirostat", "mirostat_tau", "mirostat_eta")}


@dataclass(frozen=True)
class Dialect:
    """One kind of server."""

    name: str
    settings: Mapping[str, str]
    """Our name of a setting → the server's."""
    schemas: bool = False
    """Whether `response_format` with a JSON schema holds on `/v1/completions`."""
    token_ids: bool = False
    """Whether log-probabilities come with token ids (`return_tokens_as_token_ids`)."""
    no_top_k: int = 0
    """How it writes "keep all" for top_k."""


DIALECTS: Mapping[str, Dialect] = {
    "hanpaca": Dialect(
        "hanpaca",
        _STANDARD | _MIROSTAT | {name: name for name in (
            "top_k", "min_p", "typical_p", "repetition_penalty", "penalty_last_n", "grammar", "timeout")},
        schemas=True, token_ids=True,
    ),
    "vllm": Dialect(
        "vllm", _STANDARD | {name: name for name in ("top_k", "min_p", "repetition_penalty")},
        schemas=True, token_ids=True, no_top_k=-1,
    ),
    "llama-server": Dialect(
        "llama-server",
        _STANDARD | _MIROSTAT | {
            "top_k": "top_k", "min_p": "min_p", "typical_p": "typical_p", "repetition_penalty": "repeat_penalty",
            "penalty_last_n": "repeat_last_n", "grammar": "grammar"},
    ),
    "openai": Dialect("openai", _STANDARD),
}  # fmt: skip
"""By name; the last one is what every such server understands."""

_OWNERS = {"hanpaca": "hanpaca", "vllm": "vllm", "llamacpp": "llama-server"}


def dialect_of(model: Mapping[str, Any]) -> Dialect:
    """The kind of server, by what it says of a model in `/v1/models`."""
    return DIALECTS[_OWNERS.get(str(model.get("owned_by")), "openai")]


def body_of(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """The settings as the server wants them. Raises `UnsupportedFeature` for those it lacks."""
    body: dict[str, Any] = {"max_tokens": sampling.max_tokens}
    defaults = Sampling()
    for field in dataclasses.fields(Sampling):
        name, value = field.name, getattr(sampling, field.name)
        if name in _OTHERWISE or value is None:
            continue
        if name in dialect.settings:
            body[dialect.settings[name]] = value
        elif value != getattr(defaults, name):
            raise _lacks(dialect, name)
    if sampling.top_k == 0 and "top_k" in body:
        body["top_k"] = dialect.no_top_k
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.logit_bias:
        body["logit_bias"] = {str(token): _finite(bias) for token, bias in sampling.logit_bias.items()}
    return body | _form(sampling, dialect) | _logprobs(sampling, dialect)


_OTHERWISE = ("max_tokens", "stop", "logit_bias", "json_schema", "logprobs")


def _form(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    if sampling.json_schema is None:
        return {}
    if not dialect.schemas:
        raise _lacks(dialect, "json_schema")
    schema = {"name": "answer", "schema": dict(sampling.json_schema)}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _logprobs(sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    if sampling.logprobs is None:
        return {}
    if not dialect.token_ids:
        raise _lacks(dialect, "logprobs")
    return {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}


def _finite(bias: float) -> float:
    return math.copysign(100.0, bias) if math.isinf(bias) else float(bias)


def _lacks(dialect: Dialect, name: str) -> UnsupportedFeature:
    known = ", ".join([*dialect.settings, "stop", "logit_bias"])
    return UnsupportedFeature(
        f"A server of the kind {dialect.name!r} has no {name} that this engine can use.",
        f"Leave it out (known there: {known}), or say what the server is: server={' | '.join(DIALECTS)}.",
    )
