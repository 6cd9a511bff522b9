"""GGUF files of real shapes with random weights, made in seconds: for speed and size, not for meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hanpaca.core.catalog import resolve
from hanpaca.core.engines.llama_native import NativeWeights
from hanpaca.core.gguf_header import read

SHAPES = {"1.3b": (4, 4096, 11008, 32), "7b": (32, 4096, 11008, 32)}
"""Layers, hidden, ffn, heads of the published models."""
VOCABULARY = 55_296


def write_q4_0(path: Path, shape: str = "1.3b", *, context: int = 4096) -> Path:
    """A model of that shape in Q4_0, tensor by tensor."""
    import gguf

    layers, hidden, ffn, heads = SHAPES[shape]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_rope_dimension_count(hidden // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(2)
    _add_vocabulary(writer)
    choose = np.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int) -> None:
        blocks = np.empty((rows, columns // 32, 18), np.uint8)  # per block of 32: an F16 scale, 16 bytes of nibbles
        blocks[:, :, 2:] = choose.integers(0, 256, (rows, columns // 32, 16), np.uint8)
        blocks[:, :, :2] = np.frombuffer(np.float16(0.004).tobytes(), np.uint8)
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    matrix("token_embd.weight", VOCABULARY, hidden)
    matrix("output.weight", VOCABULARY, hidden)
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for layer in range(layers):
        block = f"blk.{layer}."
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"{block}{name}.weight", hidden, hidden)
        matrix(f"{block}ffn_gate.weight", ffn, hidden)
        matrix(f"{block}ffn_up.weight", ffn, hidden)
        matrix(f"{block}ffn_down.weight", hidden, ffn)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{name}.weight", np.ones(hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: Any) -> None:
    """A sentencepiece-style vocabulary of the published size: controls, bytes, SmolLM2's pieces, and made-up ones.
    With real pieces a question has as many tokens as a user's; of bytes it would have four times as many."""
    pieces = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256)), *_pieces()]
    pieces += [f"p{number}".encode() for number in range(len(pieces), VOCABULARY)]
    kinds = [2, 3, 3] + [6] * 256 + [1] * (VOCABULARY - 259)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([-float(i) for i in range(VOCABULARY)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)


def _pieces() -> list[bytes]:
    """SmolLM2's pieces that are whole characters, in the order in which its merges made them."""
    path = resolve("smollm2").path
    assert path is not None
    weights = NativeWeights(path)
    texts = [weights.token_bytes(token).decode(errors="replace") for token in range(read(path).vocabulary_size)]
    weights.free()
    whole = dict.fromkeys(text.replace(" ", "\u2581") for text in texts if text and "\ufffd" not in text)
    return [text.encode() for text in whole]
