"""The head of a GGUF file for a LLaMA model: settings, vocabulary and the table of tensors.

Knows the `gguf` package's writer. Writes no weights: `convert.py` streams those behind the head, `quantize.py`
leaves a hole there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import EngineUnavailable
from ..gguf_header import TENSOR_TYPES
from ..rope import Rope
from .llama import Shape
from .vocabulary_files import Vocabulary

FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""Types that conversion writes, and llama.cpp's `llama_ftype` of each."""

_BLOCKS = {name: (elements, size) for name, elements, size in TENSOR_TYPES.values()}


@dataclass(frozen=True)
class Entry:
    """One line of the table of tensors."""

    name: str
    shape: tuple[int, ...]
    """Row-major, as in the checkpoint."""
    type: str
    """f32, f16, bf16 or q8_0."""

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.shape, self.type)


def tensor_bytes(shape: Sequence[int], type: str) -> int:
    """Bytes of a tensor in a ggml type such as `f16` or `q4_K`."""
    block, size = _BLOCKS[type.upper()]
    return math.prod(shape) // block * size


def gguf_package() -> Any:
    """The `gguf` package. Raises `EngineUnavailable` where it is missing."""
    try:
        import gguf
    except ImportError as error:
        raise EngineUnavailable(
            "Writing GGUF files needs the package gguf.", 'Install it with: pip install "hanpaca[convert]"'
        ) from error
    return gguf


def entry_type(shape: Sequence[int], wanted: str) -> str:
    """Vectors stay F32, as llama.cpp wants them; rows that no Q8_0 block divides stay F16."""
    if len(shape) < 2:
        return "f32"
    return "f16" if wanted == "q8_0" and shape[-1] % 32 else wanted


def write_head(
    path: Path,
    *,
    name: str,
    type: str,
    shape: Shape,
    rope: Rope,
    epsilon: float,
    vocabulary: Vocabulary | None,
    entries: Sequence[Entry],
) -> Any:
    """Write everything before the weights to `path`; the writer that is given back awaits them in order.

    The caller closes it. Without a vocabulary the file has none (llama.cpp can plan with it, not run it).
    """
    gguf = gguf_package()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, shape, epsilon)
    _add_rope(writer, gguf, rope)
    if vocabulary is None:
        writer.add_tokenizer_model("none")
    else:
        _add_vocabulary(writer, vocabulary)
    for entry in entries:
        kind = gguf.GGMLQuantizationType[entry.type.upper()]
        writer.add_tensor_info(entry.name, entry.shape, np.dtype(np.float32), entry.nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def _add_shape(writer: Any, shape: Shape, epsilon: float) -> None:
    writer.add_vocab_size(shape.vocabulary)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(epsilon)
    writer.add_rope_dimension_count(shape.head_dim)
    if shape.head_dim * shape.heads != shape.hidden:
        writer.add_key_length(shape.head_dim)
        writer.add_value_length(shape.head_dim)


def _add_rope(writer: Any, gguf: Any, rope: Rope) -> None:
    writer.add_context_length(rope.native_context)
    writer.add_rope_freq_base(rope.base)
    if rope.scaling not in ("linear", "yarn"):
        return
    kind = gguf.RopeScalingType.LINEAR if rope.scaling == "linear" else gguf.RopeScalingType.YARN
    writer.add_rope_scaling_type(kind)
    writer.add_rope_scaling_factor(rope.factor)
    if rope.scaling == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope.original)
        writer.add_rope_scaling_yarn_beta_fast(rope.beta_fast)
        writer.add_rope_scaling_yarn_beta_slow(rope.beta_slow)
        if rope.attention != 1:
            writer.add_rope_scaling_attn_factors(rope.attention)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.kind)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    if vocabulary.kind == "llama":
        writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    ids: Mapping[str, Any] = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
        "eot": writer.add_eot_token_id,
    }
    for name, token in vocabulary.special.items():
        ids[name](token)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_add_eos_token(vocabulary.add_eos)
    writer.add_add_space_prefix(vocabulary.add_space_prefix)
    if vocabulary.chat_template:
        writer.add_chat_template(vocabulary.chat_template)
