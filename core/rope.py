"""Context extension as arithmetic: which rotary frequencies serve a wanted context length.

Knows no engine and no files: it takes a model's own RoPE and gives a plan, rendered for llama.cpp context parameters,
transformers `rope_parameters`, vLLM and llama-server flags. A plan depends on a length alone, so it can be settled
before a request's first token: keys that are cached already then keep the frequencies they were made with.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from .errors import BadInput

Scaling = Literal["none", "linear", "yarn", "llama3"]
SCALINGS: tuple[Scaling, ...] = ("none", "linear", "yarn", "llama3")
LLAMA_CPP_TYPES = {"none": 0, "linear": 1, "yarn": 2}
"""`enum llama_rope_scaling_type`. Llama 3's frequencies are a tensor in the file that llama.cpp finds by itself."""


@dataclass(frozen=True)
class Rope:
    """A model's own rotary embedding, as it was trained."""

    base: float = 10_000.0
    """θ: pair i of `dim` turns by base^(-2i/dim) per position."""
    dim: int = 128
    """Rotated dimensions of one head."""
    trained: int = 4_096
    """Positions of the window, before `scaling` stretches it."""
    scaling: Scaling = "none"
    """`linear` is position interpolation; `yarn` and `llama3` stretch slow pairs more than fast ones."""
    factor: float = 1.0
    """How far `scaling` stretches."""
    original: int = 4_096
    """Positions of the first training, which YaRN and Llama 3 count turns over."""
    beta_fast: float = 32.0
    """YaRN: pairs that turn more often than this over `original` positions are not stretched."""
    beta_slow: float = 1.0
    """YaRN: pairs that turn less often than this are stretched in full."""

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise BadInput(f"RoPE scaling {self.scaling!r} is not known.", "Known: " + ", ".join(SCALINGS) + ".")
        if not (self.base > 1 and 1 <= self.factor < math.inf and self.trained >= 1 and self.dim >= 4) or self.dim % 2:
            raise BadInput(f"{self} is no rotary embedding.", "Check the model's configuration.")

    @property
    def native_context(self) -> int:
        """Positions that the model serves without anything on top, its own scaling included."""
        return round(self.trained * self.factor) if self.scaling in ("linear", "yarn") else self.trained


@dataclass(frozen=True)
class RopePlan:
    """The frequencies for contexts of up to `context` positions. Hashable: contexts in an engine are keyed by it."""

    context: int
    rope: Rope
    base: float
    """θ of this plan: the model's own, or moved by adaptive NTK."""
    alpha: float = 1.0
    """1 where the model's own window serves."""

    @property
    def freq_scale(self) -> float:
        """What llama.cpp multiplies positions by."""
        return 1 / self.rope.factor if self.rope.scaling in ("linear", "yarn") else 1.0

    @property
    def is_native(self) -> bool:
        """Whether the model is used exactly as trained."""
        return self.base == self.rope.base

    @property
    def magnitude(self) -> float:
        """What YaRN multiplies sines and cosines by; both libraries do it by themselves."""
        return 0.1 * math.log(self.rope.factor) + 1 if self.rope.scaling == "yarn" else 1.0

    def inv_freq(self) -> list[float]:
        """Radians per position of each of the `dim / 2` pairs, before YaRN's change of magnitude."""
        plain = [self.base ** (-2 * i / self.rope.dim) for i in range(self.rope.dim // 2)]
        if self.rope.scaling == "linear":
            return [value / self.rope.factor for value in plain]
        if self.rope.scaling == "yarn":
            return _yarn(plain, self.base, self.rope)
        return _llama3(plain, self.rope) if self.rope.scaling == "llama3" else plain

    def llama_cpp(self) -> dict[str, float | int]:
        """Fields of `llama_context_params`; what is not named stays at its default (read from the file)."""
        fields: dict[str, float | int] = {"rope_freq_base": self.base}
        if self.rope.scaling in LLAMA_CPP_TYPES:
            fields |= {"rope_scaling_type": LLAMA_CPP_TYPES[self.rope.scaling], "rope_freq_scale": self.freq_scale}
        if self.rope.scaling == "yarn":
            fields |= {
                "yarn_ext_factor": 1.0,
                "yarn_orig_ctx": self.rope.original,
                "yarn_beta_fast": self.rope.beta_fast,
                "yarn_beta_slow": self.rope.beta_slow,
            }
        return fields

    def transformers(self) -> dict[str, Any]:
        """The `rope_parameters` of a transformers config."""
        parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": self.base}
        if self.rope.scaling != "none":
            parameters |= {"rope_type": self.rope.scaling, "factor": float(self.rope.factor)}
        if self.rope.scaling in ("yarn", "llama3"):
            parameters["original_max_position_embeddings"] = self.rope.original
        if self.rope.scaling == "yarn":
            parameters |= {"beta_fast": self.rope.beta_fast, "beta_slow": self.rope.beta_slow}
        if self.rope.scaling == "llama3":
            parameters |= {"low_freq_factor": LLAMA3_LOW, "high_freq_factor": LLAMA3_HIGH}
        return parameters

    def vllm(self) -> list[str]:
        """Flags of `vllm serve`."""
        overrides = {"rope_parameters": self.transformers(), "max_position_embeddings": self.context}
        return ["--max-model-len", str(self.context), "--hf-overrides", json.dumps(overrides)]

    def llama_server(self) -> list[str]:
        """Flags of llama.cpp's `llama-server`."""
        flags = ["--ctx-size", str(self.context), "--rope-freq-base", f"{self.base:.9g}"]
        if self.rope.scaling in LLAMA_CPP_TYPES:
            flags += ["--rope-scaling", self.rope.scaling, "--rope-freq-scale", f"{self.freq_scale:.9g}"]
        if self.rope.scaling == "yarn":
            flags += ["--yarn-orig-ctx", str(self.rope.original), "--yarn-ext-factor", "1"]
            flags += ["--yarn-beta-fast", f"{self.rope.beta_fast:g}", "--yarn-beta-slow", f"{self.rope.beta_slow:g}"]
        return flags


def plan(rope: Rope, context: int, alpha: float | Literal["auto"] = "auto") -> RopePlan:
    """The plan for `context` positions (at least 1): the model as it is inside its own window, adaptive NTK beyond.

    With `alpha="auto"`: alpha = context / (native / 2) - 1, and base' = base · alpha^(dim / (dim - 2)), the formula
    published with the models, where native is the model's own window. A number (at least 1) fixes alpha beyond the
    window. Raises `BadInput` for other values.
    """
    if isinstance(context, bool) or not isinstance(context, int) or context < 1:
        raise BadInput(f"A context is a whole number of positions, at least 1, not {context!r}.", "For example 12288.")
    if alpha != "auto" and (isinstance(alpha, bool | str) or not 1 <= alpha < math.inf):
        raise BadInput(f"alpha is a number of at least 1, or 'auto', not {alpha!r}.")
    if context <= rope.native_context:
        return RopePlan(context, rope, rope.base)
    chosen = context / (rope.native_context / 2) - 1 if alpha == "auto" else float(alpha)
    return RopePlan(context, rope, rope.base * chosen ** (rope.dim / (rope.dim - 2)), chosen)


def context_sizes(rope: Rope, limit: int) -> tuple[int, ...]:
    """The lengths that requests are rounded up to, ascending: `limit` alone inside the native window; else the native
    window, three windows where `limit` is further than that, and `limit`."""
    native = rope.native_context
    if limit <= native:
        return (limit,)
    return (native, limit) if limit <= 3 * native else (native, 3 * native, limit)


LLAMA3_LOW, LLAMA3_HIGH = 1.0, 4.0
"""Turns over the original window below which Llama 3 stretches in full, and above which not at all."""


def _llama3(plain: list[float], rope: Rope) -> list[float]:
    def one(value: float) -> float:
        turns = rope.original * value / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)))
        return kept * value + (1 - kept) * value / rope.factor

    return [one(value) for value in plain]


def _yarn(plain: list[float], base: float, rope: Rope) -> list[float]:
    """YaRN's blend (arXiv 2309.00071): fast pairs as they are, slow ones stretched, a ramp between."""

    def pair_of(turns: float) -> float:
        return rope.dim * math.log(rope.original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low = max(math.floor(pair_of(rope.beta_fast)), 0)
    high = min(math.ceil(pair_of(rope.beta_slow)), rope.dim - 1)
    width = max(high - low, 0.001)
    stretched = [min(1.0, max(0.0, (i - low) / width)) for i in range(len(plain))]
    return [s * value / rope.factor + (1 - s) * value for s, value in zip(stretched, plain, strict=True)]
