"""Small LLaMA GGUF files with random weights, written for tests: a real tokenizer, a real architecture, no meaning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Shape:
    layers: int = 2
    hidden: int = 64
    ffn: int = 128
    heads: int = 4
    kv_heads: int = 2


def byte_vocabulary(extra: tuple[str, ...] = ()) -> tuple[list[bytes], list[float], list[int]]:
    """A sentencepiece-style vocabulary without a file: controls, 256 bytes, space, letters, `extra` controls."""
    pieces = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{byte:02X}>".encode() for byte in range(256)]
    types = [2, 3, 3] + [6] * 256
    letters = [
        "▁",
        *"etaoinshrdlucmfwypvbgkjqxz",
        "▁t",
        "▁a",
        "in",
        "▁th",
        "▁the",
        *"你好是的一个助手。？，",
        "你好",
        "助手",
    ]
    pieces += [letter.encode() for letter in letters]
    types += [1] * len(letters)
    pieces += [text.encode() for text in extra]
    types += [3] * len(extra)
    return pieces, [-float(i) for i in range(len(pieces))], types


def sentencepiece_vocabulary(model: Path) -> tuple[list[bytes], list[float], list[int]]:
    """The pieces, scores and types (as GGUF numbers them) of a `tokenizer.model` file."""
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=str(model))
    ids = range(sp.vocab_size())
    kinds = ((sp.is_unknown, 2), (sp.is_control, 3), (sp.is_unused, 5), (sp.is_byte, 6))
    types = [next((number for test, number in kinds if test(i)), 1) for i in ids]
    return [sp.id_to_piece(i).encode() for i in ids], [sp.get_score(i) for i in ids], types


def write_gguf(
    path: Path,
    *,
    tokenizer_model: Path | None = None,
    controls: tuple[str, ...] = (),
    shape: Shape | None = None,
    context: int = 4096,
    rope_base: float = 10_000.0,
    rope_scaling: tuple[str, float, int] | None = None,
    chat_template: str | None = None,
    name: str = "random",
    half: bool = False,
    tied: bool = False,
    seed: int = 0,
    scale: float = 0.5,
    metadata: dict[str, str | float] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write a model of `shape` and return `path`.

    `tokenizer_model`: a sentencepiece file, else a vocabulary of bytes and letters with `controls` appended.
    `rope_scaling`: (type, factor, original context). `half`: F16 matrices instead of F32. `tied`: no output matrix.
    `metadata` and `tensors` are added as they are, `tensors` in place of random ones of the same name.
    """
    import gguf

    shape = shape or Shape()
    tokens, scores, types = (
        sentencepiece_vocabulary(tokenizer_model) if tokenizer_model is not None else byte_vocabulary(controls)
    )
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_rope_freq_base(rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(1 if half else 0)
    if rope_scaling is not None:
        kind, factor, original = rope_scaling
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    for key, value in (metadata or {}).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_float32(key, value)
    for key, array in random_weights(shape, len(tokens), seed=seed, tied=tied, scale=scale).items():
        if key in (tensors or {}):
            continue
        writer.add_tensor(key, array.astype(np.float16) if half and array.ndim == 2 else array)
    for key, array in (tensors or {}).items():
        writer.add_tensor(key, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_weights(
    shape: Shape, vocabulary: int, *, seed: int = 0, tied: bool = False, scale: float = 0.5
) -> dict[str, np.ndarray]:
    """The F32 tensors of a LLaMA model by their GGUF names; matrices are (out, in)."""
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> np.ndarray:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(scale * columns**-0.5)

    key_width = shape.hidden // shape.heads * shape.kv_heads
    weights = {"token_embd.weight": rng.standard_normal((vocabulary, shape.hidden), dtype=np.float32)}
    weights["output_norm.weight"] = np.ones(shape.hidden, dtype=np.float32)
    if not tied:
        weights["output.weight"] = matrix(vocabulary, shape.hidden)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        weights[block + "attn_norm.weight"] = np.ones(shape.hidden, dtype=np.float32)
        weights[block + "ffn_norm.weight"] = np.ones(shape.hidden, dtype=np.float32)
        weights[block + "attn_q.weight"] = matrix(shape.hidden, shape.hidden)
        weights[block + "attn_k.weight"] = matrix(key_width, shape.hidden)
        weights[block + "attn_v.weight"] = matrix(key_width, shape.hidden)
        weights[block + "attn_output.weight"] = matrix(shape.hidden, shape.hidden)
        weights[block + "ffn_gate.weight"] = matrix(shape.ffn, shape.hidden)
        weights[block + "ffn_up.weight"] = matrix(shape.ffn, shape.hidden)
        weights[block + "ffn_down.weight"] = matrix(shape.hidden, shape.ffn)
    return weights
