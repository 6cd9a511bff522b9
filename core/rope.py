"""Context extension as arithmetic: which rotary frequencies serve a wanted context length.

Knows no engine and no files: it takes a model's own RoPE and gives a plan, rendered for llama.cpp context parameters,
transformers `rope_parameters`, vLLM and llama-server flags. A plan depends on a length alone, so it can be settled
before a request's first token: keys that are cached already then keep the frequencies they were made with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from .errors import BadInput, UnsupportedFeature

Extension = Literal["ntk", "yarn"]
"""What stretches a model beyond its own window: adaptive NTK moves the base; YaRN, by length / window, is as in its
paper but for the training. Both were measured: the manual's page on contexts has the figures."""
Choice = Extension | Literal["auto"]
"""What a caller may ask for; "auto" is what suits the model, `Rope.beyond`."""
Scaling = Literal["none", "linear", "yarn", "llama3", "file"]
SCALINGS: tuple[Scaling, ...] = ("none", "linear", "yarn", "llama3", "file")
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
    """`linear` is position interpolation; `yarn` and `llama3` stretch slow pairs more than fast ones; `file` is a GGUF
    file's own table of factors, which llama.cpp alone reads."""
    factor: float = 1.0
    """How far `scaling` stretches."""
    original: int = 4_096
    """Positions of the first training, which YaRN and Llama 3 count turns over."""
    beta_fast: float = 32.0
    """YaRN: pairs that turn more often than this over `original` positions are not stretched."""
    beta_slow: float = 1.0
    """YaRN: pairs that turn less often than this are stretched in full."""
    attention: float = 1.0
    """YaRN: multiplied onto the usual magnitude of sines and cosines, 0.1 ln(factor) + 1."""
    beyond: Extension = field(default="ntk", compare=False)
    """What stretches it beyond its window where nobody asks for something: adaptive NTK for the models it was published
    with, YaRN for others, since it keeps more there. No property of the embedding itself."""

    def __post_init__(self) -> None:
        if self.scaling not in SCALINGS:
            raise BadInput(f"RoPE scaling {self.scaling!r} is not known.", "Known: " + ", ".join(SCALINGS) + ".")
        sizes = self.base > 1 and 1 <= self.factor < math.inf and self.trained >= 1 and self.original >= 1
        yarn = self.beta_fast > self.beta_slow > 0 and 0 < self.attention < math.inf
        if not (sizes and yarn and self.dim >= 4) or self.dim % 2 or self.beyond not in get_args(Extension):
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
    """The model's own, or stretched further by YaRN."""
    base: float
    """θ of this plan: the model's own, or moved by adaptive NTK."""
    alpha: float = 1.0
    """1 where the model's own window serves, and for YaRN."""
    extension: Extension | None = None
    """None where the model's own window serves."""

    @property
    def freq_scale(self) -> float:
        """What llama.cpp multiplies positions by."""
        return 1 / self.rope.factor if self.rope.scaling in ("linear", "yarn") else 1.0

    @property
    def is_native(self) -> bool:
        """Whether the model is used exactly as trained."""
        return self.base == self.rope.base and self.extension != "yarn"

    @property
    def magnitude(self) -> float:
        """What YaRN multiplies sines and cosines by."""
        return self.rope.attention * usual_magnitude(self.rope.factor) if self.rope.scaling == "yarn" else 1.0

    def inv_freq(self) -> list[float]:
        """Radians per position of each of the `dim / 2` pairs, before YaRN's change of magnitude. Raises
        `UnsupportedFeature` where only the file knows them."""
        self._check_known()
        plain = [self.base ** (-2 * i / self.rope.dim) for i in range(self.rope.dim // 2)]
        if self.rope.scaling == "linear":
            return [value / self.rope.factor for value in plain]
        if self.rope.scaling == "yarn":
            return _yarn(plain, self.base, self.rope)
        return _llama3(plain, self.rope) if self.rope.scaling == "llama3" else plain

    def llama_cpp(self) -> dict[str, float | int]:
        """Fields of `llama_context_params`; what is not named stays at its default (read from the file).

        YaRN's magnitude is no field: llama.cpp takes it from the file (`rope.scaling.attn_factor`).
        """
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
        """The `rope_parameters` of a transformers config. Raises `UnsupportedFeature` as `inv_freq` does."""
        self._check_known()
        parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": self.base}
        if self.rope.scaling != "none":
            parameters |= {"rope_type": self.rope.scaling, "factor": float(self.rope.factor)}
        if self.rope.scaling in ("yarn", "llama3"):
            parameters["original_max_position_embeddings"] = self.rope.original
        if self.rope.scaling == "yarn":
            parameters |= {"beta_fast": self.rope.beta_fast, "beta_slow": self.rope.beta_slow}
        if self.rope.scaling == "yarn" and self.rope.attention != 1:
            parameters["attention_factor"] = self.magnitude
        if self.rope.scaling == "llama3":
            parameters |= {"low_freq_factor": LLAMA3_LOW, "high_freq_factor": LLAMA3_HIGH}
        return parameters

    def vllm(self) -> list[str]:
        """Flags of `vllm serve`. Raises `UnsupportedFeature` as `inv_freq` does."""
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

    def _check_known(self) -> None:
        if self.rope.scaling == "file":
            raise UnsupportedFeature(
                "This model's rotary frequencies are a table in its GGUF file that no other format has.",
                "Run it with llama.cpp, inside its own window.",
            )


def plan(rope: Rope, context: int, alpha: float | Literal["auto"] = "auto", extension: Choice = "auto") -> RopePlan:
    """The plan for `context` positions (at least 1): the model as it is inside its own window, stretched beyond.

    The extension "auto" is `rope.beyond`; adaptive NTK where `alpha` is a number, or on top of position interpolation.
    With "ntk" and `alpha="auto"`: alpha = context / (native / 2) - 1, and base' = base · alpha^(dim / (dim - 2)), the
    formula published with the models, where native is the model's own window. A number (at least 1) fixes alpha
    beyond the window. With "yarn" the factor is context / `trained`, and there is no alpha. Raises `BadInput` for
    other values, and `UnsupportedFeature` beyond the window of a model whose frequencies are a table in the file
    (Llama 3's are), since llama.cpp would move the base and keep the table, and for YaRN on top of position
    interpolation.
    """
    if isinstance(context, bool) or not isinstance(context, int) or context < 1:
        raise BadInput(f"A context is a whole number of positions, at least 1, not {context!r}.", "For example 12288.")
    if alpha != "auto" and (isinstance(alpha, bool | str) or not 1 <= alpha < math.inf):
        raise BadInput(f"alpha is a number of at least 1, or 'auto', not {alpha!r}.")
    check_extension(extension)
    if extension == "auto":
        extension = "ntk" if alpha != "auto" or rope.scaling == "linear" else rope.beyond
    if extension == "yarn" and alpha != "auto":
        raise BadInput("YaRN has no alpha.", "Leave out alpha, or the extension.")
    if context <= rope.native_context:
        return RopePlan(context, rope, rope.base)
    if rope.scaling in ("llama3", "file"):
        raise UnsupportedFeature(
            f"This model's RoPE is stretched to {rope.native_context:,} positions already, by factors of its own.",
            f"Use a context of at most {rope.native_context:,}.",
        )
    if extension == "yarn":
        return RopePlan(context, _stretched(rope, context), rope.base, extension="yarn")
    chosen = context / (rope.native_context / 2) - 1 if alpha == "auto" else float(alpha)
    return RopePlan(context, rope, rope.base * chosen ** (rope.dim / (rope.dim - 2)), chosen, "ntk")


SECOND_GENERATION_VOCABULARY = 55_296
"""Pieces of every Chinese-LLaMA-2 and Chinese-Alpaca-2 model: what tells the family where a file has no name."""


def beyond(vocabulary: int) -> Extension:
    """What a model with so many pieces stretches by: adaptive NTK was published with the Chinese-LLaMA-2 family."""
    return "ntk" if vocabulary == SECOND_GENERATION_VOCABULARY else "yarn"


def check_extension(extension: object) -> None:
    """Raise `BadInput` unless it is one that there is."""
    valid = ("auto", *get_args(Extension))
    if extension not in valid:
        raise BadInput(f"extension {extension!r} is not known.", f"Valid: {', '.join(valid)}.")


def _stretched(rope: Rope, context: int) -> Rope:
    if rope.scaling == "linear":
        raise UnsupportedFeature(
            "YaRN cannot be laid on top of this model's position interpolation.", 'Use the extension "ntk".'
        )
    original = rope.original if rope.scaling == "yarn" else rope.trained
    return replace(rope, scaling="yarn", factor=context / rope.trained, original=original)


def context_sizes(rope: Rope, limit: int) -> tuple[int, ...]:
    """The lengths that requests are rounded up to, ascending: `limit` alone inside the native window; else the native
    window, three windows where `limit` is further than that, and `limit`."""
    native = rope.native_context
    if limit <= native:
        return (limit,)
    return (native, limit) if limit <= 3 * native else (native, 3 * native, limit)


def usual_magnitude(factor: float) -> float:
    """YaRN's published change of magnitude."""
    return 0.1 * math.log(factor) + 1


LLAMA3_LOW, LLAMA3_HIGH = 1.0, 4.0
"""Turns over the original window below which Llama 3 stretches in full, and above which not at all."""


def llama3_factors(rope: Rope) -> list[float]:
    """What llama.cpp divides each pair's frequency by: `rope_freqs.weight`, `dim / 2` numbers."""
    plain = [rope.base ** (-2 * i / rope.dim) for i in range(rope.dim // 2)]
    return [a / b for a, b in zip(plain, _llama3(plain, rope), strict=True)]


def of_llama3_factors(base: float, window: int, factors: Sequence[float]) -> Rope:
    """The `llama3` embedding that gives these factors, one for each pair; scaling `file` where none does.

    Factors of 1 throughout are no scaling. The first training's length follows from any pair between the two ends.
    """
    dim, most = 2 * len(factors), max(factors)
    if all(abs(factor - 1) < 1e-6 for factor in factors):
        return Rope(base, dim, window, original=window)
    between = [(i, factor) for i, factor in enumerate(factors) if 1 + 1e-3 < factor < most - 1e-3]
    for i, factor in between[:1]:
        kept = (1 / factor - 1 / most) / (1 - 1 / most)
        turns = LLAMA3_LOW + kept * (LLAMA3_HIGH - LLAMA3_LOW)
        original = round(turns * 2 * math.pi * base ** (2 * i / dim))
        found = Rope(base, dim, window, "llama3", most, max(1, original))
        if all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(llama3_factors(found), factors, strict=True)):
            return found
    return Rope(base, dim, window, "file", 1.0, window)


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
