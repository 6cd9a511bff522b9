"""The LLaMA architecture: a checkpoint's names and settings, and those of llama.cpp.

Knows names, shapes and settings; reads no weights and writes no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import BadModelFile, UnsupportedFeature
from ..gguf_header import GGUFInfo
from ..rope import LLAMA3_HIGH, LLAMA3_LOW, Rope, beyond, usual_magnitude
from .checkpoint import Checkpoint, Tensor, sound

_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_COMPUTED = re.compile(r"rotary_emb\.inv_freq$|attention\.masked_bias$")


@dataclass(frozen=True)
class Shape:
    """The sizes that decide every tensor of a LLaMA model."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocabulary: int
    head_dim: int
    tied: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shape:
        """From a `config.json`. Raises `BadModelFile` where it is none of a LLaMA model."""
        if config.get("model_type") != "llama":
            raise BadModelFile(
                f"This is no LLaMA-architecture checkpoint: its model_type is {config.get('model_type')!r}.",
                "llama.cpp's own converter knows other architectures.",
            )
        if quantized := config.get("quantization_config"):
            method = quantized.get("quant_method") if isinstance(quantized, dict) else None
            raise BadModelFile(
                f"This checkpoint is quantized already ({method or 'unknown method'}).", "Take the unquantized model."
            )
        heads, hidden = _count(config, "num_attention_heads"), _count(config, "hidden_size")
        return cls(
            layers=_count(config, "num_hidden_layers"),
            hidden=hidden,
            ffn=_count(config, "intermediate_size"),
            heads=heads,
            kv_heads=_count(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads,
            vocabulary=_count(config, "vocab_size"),
            head_dim=_count(config, "head_dim") if config.get("head_dim") else hidden // heads,
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @classmethod
    def of_gguf(cls, info: GGUFInfo) -> Shape:
        """From the head of a GGUF file. Raises `BadModelFile` where it is none of a LLaMA model."""
        if info.architecture != "llama":
            raise BadModelFile(f"This GGUF file is no LLaMA model but {info.architecture!r}.", "Give another one.")
        heads, hidden = (int(info.number(key, 0)) for key in ("attention.head_count", "embedding_length"))
        return cls(
            layers=int(info.number("block_count", 0)),
            hidden=hidden,
            ffn=int(info.number("feed_forward_length", 0)),
            heads=heads,
            kv_heads=int(info.number("attention.head_count_kv", heads)),
            vocabulary=info.vocabulary_size,
            head_dim=int(info.number("attention.key_length", hidden // max(1, heads))),
            tied=not any(tensor.name == "output.weight" for tensor in info.tensors),
        )

    def weights(self) -> dict[str, tuple[int, ...]]:
        """The checkpoint's weight names and shapes, in the order of a GGUF file."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        block: dict[str, tuple[int, ...]] = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (q, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, q),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.ffn, self.hidden),
            "mlp.up_proj": (self.ffn, self.hidden),
            "mlp.down_proj": (self.hidden, self.ffn),
        }
        names: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            names.update({f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()})
        names["model.norm.weight"] = (self.hidden,)
        if not self.tied:
            names["lm_head.weight"] = (self.vocabulary, self.hidden)
        return names


def _count(config: Mapping[str, Any], key: str) -> int:
    value = config.get(key)
    if value is None:
        raise BadModelFile(f"config.json lacks {key}.", "Fetch the file again.")
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise BadModelFile(f"config.json says {key} is {value!r}, which is no size.", "Fetch the file again.")
    return value


def gguf_name(name: str) -> str | None:
    """llama.cpp's name of a checkpoint's tensor; None for one that the LLaMA architecture does not have.

    >>> gguf_name("model.layers.3.self_attn.q_proj.weight"), gguf_name("lm_head.weight"), gguf_name("visual.weight")
    ('blk.3.attn_q.weight', 'output.weight', None)
    """
    if layer := _LAYER.fullmatch(name):
        found = _BLOCK.get(layer[2])
        return f"blk.{layer[1]}.{found}.{layer[3]}" if found else None
    stem, _, kind = name.rpartition(".")
    return f"{_TOP[stem]}.{kind}" if stem in _TOP and kind == "weight" else None


def heads_to_permute(name: str, shape: Shape) -> int:
    """How many heads' rows must be reordered in this tensor (0: none).

    Checkpoints rotate dimension i with i + dim/2, llama.cpp's LLaMA graph rotates neighbours 2i and 2i + 1.
    """
    if ".q_proj." in name:
        return shape.heads
    return shape.kv_heads if ".k_proj." in name else 0


def check_complete(checkpoint: Checkpoint, shape: Shape) -> None:
    """Raise `BadModelFile` for tensors that are missing or of another shape."""
    for name, size in shape.weights().items():
        tensor = checkpoint.tensors.get(name)
        if tensor is None:
            raise BadModelFile(f"The checkpoint lacks {name}.", "Fetch its files again, all shards.")
        if tensor.shape != size:
            raise BadModelFile(
                f"{name} has the shape {list(tensor.shape)}; config.json says {list(size)}.",
                "The weights and config.json belong to different models.",
            )


def ordered(checkpoint: Checkpoint, shape: Shape) -> Iterator[tuple[str, Tensor]]:
    """(llama.cpp's name, tensor) in the order of the file to write.

    Raises `BadModelFile` for tensors that are missing, of another shape, or foreign to the architecture.
    """
    check_complete(checkpoint, shape)
    places = {name: place for place, name in enumerate(shape.weights())}
    for name, tensor in sorted(checkpoint.tensors.items(), key=lambda item: _place(item[0], places)):
        if _COMPUTED.search(name) or (shape.tied and name == "lm_head.weight"):
            continue
        found = gguf_name(name)
        if found is None:
            raise BadModelFile(f"The tensor {name} is not part of the LLaMA architecture.", "Check the model.")
        yield found, tensor


def _place(name: str, places: Mapping[str, int]) -> tuple[int, str]:
    """A bias follows its weight; foreign names come last."""
    weight = f"{name.removesuffix('.bias')}.weight" if name.endswith(".bias") else name
    return places.get(weight, len(places)), name


def rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE settings of a `config.json`, old spelling or new: {"rope_type", "rope_theta", …}."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found["rope_type"] = found.get("rope_type") or found.get("type") or "default"
    found.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    return found


def read_rope(config: Mapping[str, Any]) -> Rope:
    """The rotary embedding of a `config.json`. Dynamic scaling counts as none: plans do that job per request.

    Raises `UnsupportedFeature` for kinds that llama.cpp has no counterpart of.
    """
    with sound("The RoPE of config.json"):
        dynamic = rope_settings(config)["rope_type"] == "dynamic"  # the same as adaptive NTK: it was meant to have that
        return replace(_read_rope(config), beyond="ntk" if dynamic else beyond(config.get("vocab_size", 0)))


def _read_rope(config: Mapping[str, Any]) -> Rope:
    shape = Shape.of(config)
    found = rope_settings(config)
    kind, window = found["rope_type"], config.get("max_position_embeddings", 2048)
    factor = float(found.get("factor", 1.0))
    common: dict[str, Any] = {"base": float(found["rope_theta"]), "dim": shape.head_dim}
    if kind in ("default", "dynamic"):
        return Rope(**common, trained=window)
    if kind == "linear":
        return Rope(**common, trained=round(window / factor), scaling="linear", factor=factor)
    original = found.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    if kind == "llama3":
        if (found.get("low_freq_factor"), found.get("high_freq_factor")) != (LLAMA3_LOW, LLAMA3_HIGH):
            raise UnsupportedFeature(
                "This model's Llama 3 RoPE has unusual frequency factors.", "Only 1 and 4 are known."
            )
        return Rope(**common, trained=window, scaling="llama3", factor=factor, original=original or 8192)
    if kind == "yarn":
        original = original or round(window / factor)
        betas: dict[str, Any] = {
            key: float(found[key]) for key in ("beta_fast", "beta_slow") if found.get(key) is not None
        }
        return Rope(
            **common,
            trained=original,
            scaling="yarn",
            factor=factor,
            original=original,
            **betas,
            attention=_attention(found, factor),
        )
    raise UnsupportedFeature(
        f"RoPE of type {kind!r} has no counterpart in llama.cpp.", "Known: default, linear, dynamic, yarn, llama3."
    )


def _attention(found: Mapping[str, Any], factor: float) -> float:
    """YaRN's magnitude over the usual one, by transformers' rules (`_compute_yarn_parameters`)."""
    if found.get("truncate") is False:
        raise UnsupportedFeature(
            "This model's YaRN does not round where its ramp begins and ends, which llama.cpp always does.",
            "Run the checkpoint itself, with transformers or vLLM.",
        )
    given, usual = found.get("attention_factor"), usual_magnitude(factor)
    if given is None and found.get("mscale") and found.get("mscale_all_dim"):
        given = (0.1 * found["mscale"] * math.log(factor) + 1) / (0.1 * found["mscale_all_dim"] * math.log(factor) + 1)
    return 1.0 if given is None or abs(given / usual - 1) < 1e-6 else float(given) / usual


def rope_note(config: Mapping[str, Any]) -> str:
    """What conversion does with the RoPE scaling, in one sentence; empty for plain RoPE."""
    rope, kind = read_rope(config), rope_settings(config)["rope_type"]
    if kind == "dynamic":
        return (
            f"RoPE: dynamic scaling is left out of the file, whose native window is {rope.trained} positions; "
            "Hanpaca widens it per request (adaptive NTK, the same formula)."
        )
    if kind == "linear":
        return f"RoPE: position interpolation by {rope.factor:g}, native window {rope.native_context} positions."
    if kind == "yarn":
        return f"RoPE: YaRN by {rope.factor:g} from {rope.original}, native window {rope.native_context} positions."
    if kind == "llama3":
        return f"RoPE: Llama 3's frequency factors, kept as rope_freqs.weight, window {rope.native_context} positions."
    return ""
