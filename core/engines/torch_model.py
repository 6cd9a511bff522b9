"""Loading PyTorch weights, and one shell per RoPE plan.

Knows transformers, bitsandbytes and PEFT. Knows no requests.
"""

from __future__ import annotations

import copy
import importlib.util
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cache import parts_of
from ..errors import BadInput, BadModelFile, EngineUnavailable, HanpacaError, UnsupportedFeature
from ..gguf_header import read, rope_of
from ..rope import Rope, RopePlan
from ..weights.adapter import Adapter, check_vocabulary
from ..weights.checkpoint import Checkpoint, read_json
from ..weights.llama import Shape, check_complete, read_rope
from .torch_hardware import DTYPES, choose, detect

QUANTIZATIONS = (None, "8bit", "4bit")
_loading = threading.Lock()


@dataclass
class Loaded:
    """Weights in memory, and what is known of them."""

    model: Any
    rope: Rope
    dtype: str
    attention: str
    tokenizer: Path
    """Where the tokenizer is: the checkpoint's folder, an adapter's, or the GGUF file."""
    _shells: dict[RopePlan, Any]

    @property
    def rows(self) -> int:
        """Rows of the embedding."""
        return int(self.model.config.vocab_size)

    @property
    def cell_bytes(self) -> int:
        """Bytes of one cache cell: keys and values of one token in every layer."""
        config = self.model.config
        width = config.num_key_value_heads * self.rope.dim
        return int(2 * config.num_hidden_layers * width * (4 if self.dtype == "float32" else 2))

    def shell(self, plan: RopePlan) -> Any:
        """The model with the frequencies of `plan`. Shells share every parameter and differ in nothing else."""
        if plan not in self._shells:
            self._shells[plan] = _shell(self.model, plan)
        return self._shells[plan]


def load(
    path: Path,
    *,
    device: str,
    dtype: str,
    quantization: str | None,
    loras: Sequence[Path],
    rope: Rope | None = None,
) -> Loaded:
    """Load a checkpoint folder or a GGUF file. `rope` overrides what the files say.

    Raises `EngineUnavailable` for a missing package, `BadInput` for unknown settings, `BadModelFile` for files that
    transformers cannot load, `UnsupportedFeature` for architectures that are not LLaMA's.
    """
    _check(dtype, quantization)
    _packages(quantization)
    is_file = path.is_file()
    if not is_file:  # transformers would make up what is missing, and names no tensor of another shape
        files = Checkpoint.open(path)
        check_complete(files, Shape.of(files.config))
    rope = rope or (rope_of(read(path)) if is_file else read_rope(files.config))
    hardware = detect(device)
    if quantization == "8bit" and dtype == "auto":
        dtype = "float16"  # what its product computes in: anything else is cast for every layer, with a warning each
    dtype, attention = choose(hardware, dtype, _parameters(path))
    with _loading, _quiet():
        try:
            model = _load(path, is_file, hardware.device, dtype, attention, quantization)
        except (HanpacaError, MemoryError):
            raise
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise BadModelFile(
                f"transformers cannot load {path}: {first}.", "Check it with `hanpaca verify`."
            ) from error
        _check_architecture(model)
        model, tokenizer = _with_loras(model, path, loras)
    model.eval()
    model.requires_grad_(False)
    return Loaded(model, rope, dtype, attention, tokenizer, {})


def _check(dtype: str, quantization: str | None) -> None:
    if dtype not in DTYPES:
        raise BadInput(f"dtype {dtype!r} is not known.", "Valid: " + ", ".join(DTYPES) + ".")
    if quantization not in QUANTIZATIONS:
        raise BadInput(f"quantization {quantization!r} is not known.", "Valid: 8bit, 4bit, or none.")


def _packages(quantization: str | None) -> None:
    for name in ("torch", "transformers"):
        if importlib.util.find_spec(name) is None:
            raise EngineUnavailable(
                f"The transformers engine needs the package {name}.",
                'Install it with: pip install "hanpaca[transformers]"',
            )
    if quantization and importlib.util.find_spec("bitsandbytes") is None:
        raise EngineUnavailable(
            "8-bit and 4-bit loading need the package bitsandbytes.",
            'Install it with: pip install "hanpaca[bitsandbytes]"',
        )


def _parameters(path: Path) -> int:
    """About how many, from the size of the files."""
    if path.is_file():
        return sum(_product(tensor.shape) for tensor in read(path).tensors)
    return sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in path.glob(pattern)) // 2


def _product(shape: Sequence[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result


def _load(path: Path, is_file: bool, device: str, dtype: str, attention: str, quantization: str | None) -> Any:
    import torch
    import transformers
    from transformers.utils.quantization_config import GgufConfig

    make: Any = transformers.BitsAndBytesConfig
    settings: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "attn_implementation": attention,
        "local_files_only": True,
        "device_map": "auto" if device == "cuda" and torch.cuda.device_count() > 1 else {"": device},
    }
    if is_file:
        if len(parts_of(path)) > 1:
            raise UnsupportedFeature(
                f"{path.name} is a part of a split model, and transformers reads GGUF models of one file.",
                "Run it with llama.cpp: leave out engine.",
            )
        if quantization:
            raise UnsupportedFeature(
                "A GGUF file cannot be loaded with bitsandbytes.",
                "Leave quantization out, or take a checkpoint folder.",
            )
        settings |= {"gguf_file": path.name, "quantization_config": GgufConfig(dequantize=True)}
    elif quantization == "8bit":
        settings["quantization_config"] = make(load_in_8bit=True)
    elif quantization == "4bit":
        settings["quantization_config"] = make(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=settings["dtype"]
        )
    folder = path.parent if is_file else path
    # The class itself where it is known: published 64K checkpoints name remote code that nobody needs.
    plain = not is_file and read_json(path / "config.json").get("model_type") == "llama"
    kind: Any = transformers.LlamaForCausalLM if plain else transformers.AutoModelForCausalLM
    model, found = kind.from_pretrained(folder, output_loading_info=True, **settings)
    if lost := sorted(found["missing_keys"]):  # transformers makes up random numbers and goes on
        raise BadModelFile(
            f"{path} lacks {len(lost)} weights, the first is {lost[0]}.", "Fetch its files again, all shards."
        )
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers' progress bars and warnings off for the moment, as they were afterwards: errors say it all."""
    import transformers

    logging: Any = transformers.utils.logging
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _check_architecture(model: Any) -> None:
    inner = getattr(model, "model", None)
    kinds = set(getattr(model.config, "layer_types", None) or ["full_attention"])
    if not hasattr(inner, "rotary_emb") or kinds != {"full_attention"}:
        raise UnsupportedFeature(
            f"The transformers engine runs LLaMA-architecture models, not {model.config.model_type!r}.",
            "Use a GGUF file of the model: llama.cpp knows more architectures.",
        )


def _with_loras(model: Any, path: Path, loras: Sequence[Path]) -> tuple[Any, Path]:
    """The model with PEFT adapters beside its weights, summed, and the place of the tokenizer that fits."""
    tokenizer = path
    if not loras:
        return model, tokenizer
    if importlib.util.find_spec("peft") is None:
        raise EngineUnavailable(
            "LoRA adapters need the package peft.", 'Install it with: pip install "hanpaca[transformers]"'
        )
    import peft

    adapters = [Adapter.open(folder) for folder in loras]
    if sum(bool(adapter.full) for adapter in adapters) > 1:
        raise UnsupportedFeature(
            "Several of these adapters replace whole layers, such as the embedding.",
            "Merge them in turn: hanpaca merge BASE LORA LORA OUT.",
        )
    for adapter in adapters:
        check_vocabulary(adapter, model.config.vocab_size)
        rows = adapter.rows
        if rows is not None and rows != model.config.vocab_size:
            model.resize_token_embeddings(rows, mean_resizing=False)
        if rows is not None and (
            (adapter.folder / "tokenizer.model").is_file() or (adapter.folder / "tokenizer.json").is_file()
        ):
            tokenizer = adapter.folder
    wrapped: Any = peft.PeftModel.from_pretrained(model, str(loras[0]), adapter_name="lora0")
    for number, folder in enumerate(loras[1:], 1):
        wrapped.load_adapter(str(folder), adapter_name=f"lora{number}")
    wrapped.base_model.set_adapter([f"lora{number}" for number in range(len(loras))])
    return wrapped.get_base_model(), tokenizer


def _shell(model: Any, plan: RopePlan) -> Any:
    """Shallow copies of the two outer modules, and a rotary embedding of their own."""
    inner = copy.copy(model.model)
    rotary = inner.rotary_emb
    config = copy.deepcopy(rotary.config)
    config.rope_parameters = plan.transformers()
    config.max_position_embeddings = plan.context
    inner._modules = {**inner._modules, "rotary_emb": type(rotary)(config=config).to(rotary.inv_freq.device)}
    shell = copy.copy(model)
    shell._modules = {**model._modules, "model": inner}
    return shell
