"""Small LLaMA checkpoints with random weights, written for tests as Hugging Face folders with a real tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def write_checkpoint(
    folder: Path,
    *,
    tokenizer_model: Path | None = None,
    vocabulary: int = 55_296,
    hidden: int = 64,
    ffn: int = 128,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    tied: bool = False,
    context: int = 4096,
    rope: dict[str, Any] | None = None,
    dtype: str = "float32",
    shard: str = "50GB",
    bin: bool = False,
    spread: float = 0.05,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a checkpoint to `folder` and return it. `rope`: `rope_parameters` but for theta; `bin`: torch files.

    `spread`: standard deviation of the weights. At 0.1 random attention is so sharp that F32 rounding alone, in either
    engine, moves logits by more than 1e-5.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 10_000.0, "rope_type": "default", **(rope or {})},
        initializer_range=spread,
        **config,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(settings).to(getattr(torch, dtype))
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight") or name.endswith("bias"):
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.1)
    model.save_pretrained(folder, max_shard_size=shard)
    if bin:
        to_bin(folder)
    if tokenizer_model is not None:
        write_tokenizer(folder, tokenizer_model, pad=vocabulary > 32_000)
    return folder


def write_tokenizer(folder: Path, tokenizer_model: Path, *, pad: bool) -> None:
    """Tokenizer files as the published models have them."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tokenizer_model, folder / "tokenizer.model")
    names = SPECIAL | ({"pad_token": "<pad>"} if pad else {})
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(SPECIAL | settings))


def to_bin(folder: Path) -> None:
    """Turn a folder's safetensors files into PyTorch's."""
    import torch
    from safetensors.torch import load_file

    for file in sorted(folder.glob("model*.safetensors")):
        torch.save(
            load_file(file), folder / file.name.replace("model", "pytorch_model").replace(".safetensors", ".bin")
        )
        file.unlink()
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        text = index.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
        (folder / "pytorch_model.bin.index.json").write_text(text)
        index.unlink()


def edit_json(file: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
