"""GGUF file → checkpoint folder: the weights in full precision, the tokenizer as files, so that it can be trained.

The way back from `convert.py`. Knows the `gguf` package's reader; holds one tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BadModelFile, UnsupportedFeature
from ..gguf_header import read_model, rope_of
from ..rope import Rope
from .checkpoint import Tensor
from .files import Progress, need_space, new_folder
from .gguf_file import gguf_package
from .llama import Shape, gguf_name, heads_to_permute
from .safetensors_file import encode, write_safetensors
from .unpack_vocabulary import write_tokenizer

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def unpack(
    path: Path, out: Path, dtype: str = "float32", on_progress: Progress | None = None, loras: Sequence[Path] = ()
) -> Path:
    """Write the LLaMA-architecture GGUF file `path` as a checkpoint to the new folder `out`, GGUF adapters added.

    Quantized numbers become exactly what llama.cpp computes with where `dtype` is float32. Raises `BadModelFile` for a
    broken file or an adapter of another model, `UnsupportedFeature` for another architecture or for RoPE scaling that a
    `config.json` cannot say here.
    """
    if dtype not in DTYPES:
        raise UnsupportedFeature(f"A checkpoint is not written in {dtype!r}.", f"Valid: {', '.join(DTYPES)}.")
    info = read_model(path)
    if info.architecture != "llama":
        raise UnsupportedFeature(
            f"{path} is a {info.architecture!r} model.", "Only files of the LLaMA architecture can be unpacked."
        )
    reader = gguf_package().GGUFReader(info.path)
    found = {tensor.name: tensor for tensor in reader.tensors}
    shape, config = _config(info, found, dtype)
    adapters = [_Lora(lora, found) for lora in loras]
    wanted = shape.weights()
    missing = [name for name in wanted if gguf_name(name) not in found]
    if missing:
        raise BadModelFile(f"{path} lacks the tensor of {missing[0]}.", "It is a part of a set, or broken.")
    kind = DTYPES[dtype]
    total = sum(Tensor(name, kind, size, path, 0).nbytes for name, size in wanted.items())
    need_space(out.parent, total + (16 << 20))
    done = 0

    def counted(name: str) -> Callable[[], Iterator[NDArray[Any]]]:
        def rows() -> Iterator[NDArray[Any]]:
            nonlocal done
            numbers = _numbers(found[str(gguf_name(name))])
            for adapter in adapters:
                numbers = numbers + adapter.change(str(gguf_name(name)))
            block = encode(_unpermuted(numbers, heads_to_permute(name, shape)), kind, name)
            done += block.nbytes
            yield block
            if on_progress:
                on_progress(done, total)

        return rows

    with new_folder(out) as folder:
        table = {name: (Tensor(name, kind, size, path, 0), counted(name)) for name, size in wanted.items()}
        write_safetensors(folder / "model.safetensors", table)
        special = write_tokenizer(reader, folder)
        config |= {f"{name}_token_id": token for name, token in special.items() if name in ("bos", "eos", "pad")}
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return out


def _config(info: Any, found: dict[str, Any], dtype: str) -> tuple[Shape, dict[str, Any]]:
    heads = int(info.number("attention.head_count", 0))
    hidden = int(info.number("embedding_length", 0))
    if not heads or not hidden:
        raise BadModelFile(f"{info.path} does not say its sizes.", "Fetch the file again.")
    head_dim = int(info.number("attention.key_length", hidden // heads))
    shape = Shape(
        layers=int(info.number("block_count", 0)),
        hidden=hidden,
        ffn=int(info.number("feed_forward_length", 0)),
        heads=heads,
        kv_heads=int(info.number("attention.head_count_kv", heads)),
        vocabulary=int(found["token_embd.weight"].data.shape[0]),
        head_dim=head_dim,
        tied="output.weight" not in found,
    )
    rope = rope_of(info)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "rms_norm_eps": round(info.number("attention.layer_norm_rms_epsilon", 1e-5), 12),
        "max_position_embeddings": int(info.number("context_length", 4096)),
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": dtype,
        "rope_parameters": _rope(rope),
    }
    return shape, config


def _rope(rope: Rope) -> dict[str, Any]:
    plain: dict[str, Any] = {"rope_theta": rope.base}
    if rope.scaling == "none":
        return plain | {"rope_type": "default"}
    if rope.scaling == "linear":
        return plain | {"rope_type": "linear", "factor": rope.factor}
    if rope.scaling == "yarn" and rope.attention == 1:
        return plain | {
            "rope_type": "yarn",
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original,
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
        }
    raise UnsupportedFeature(f"RoPE of kind {rope.scaling!r} is not unpacked.", "Take the model's own checkpoint.")


class _Lora:
    """A GGUF adapter, which llama.cpp would use beside the weights."""

    def __init__(self, path: Path, known: Collection[str]) -> None:
        try:
            reader = gguf_package().GGUFReader(path)
            self._alpha = float(reader.fields["adapter.lora.alpha"].contents())
        except (OSError, ValueError, KeyError) as error:
            raise BadModelFile(f"{path} is no GGUF adapter: {error}.", "Make one with `hanpaca convert`.") from error
        self._halves = {tensor.name: tensor for tensor in reader.tensors}
        if others := {name.rpartition(".")[0] for name in self._halves} - set(known):
            raise BadModelFile(f"{path} changes {min(others)}, which the model lacks.", "It belongs to another model.")

    def change(self, name: str) -> Any:
        """What it adds to a weight, in the file's order of rows: alpha / rank · B A, or 0."""
        if f"{name}.lora_a" not in self._halves:
            return np.float32(0)
        down, up = (_numbers(self._halves[f"{name}.lora_{half}"]) for half in "ab")
        return np.float32(self._alpha / len(down)) * (up @ down)


def _numbers(tensor: Any) -> NDArray[np.float32]:
    """A tensor in float32."""
    quants = gguf_package().quants
    return np.asarray(quants.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)


def _unpermuted(numbers: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The rows of each head back in the checkpoint's order."""
    if heads:
        numbers = numbers.reshape(heads, -1, 2, numbers.shape[1]).swapaxes(1, 2).reshape(numbers.shape)
    return np.ascontiguousarray(numbers)
