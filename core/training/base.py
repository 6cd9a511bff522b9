"""The model that training starts from: its checkpoint, its tokenizer and template, its weights, its LoRA pairs.

Knows transformers and PEFT. A GGUF file is unpacked into the run's folder first: it cannot be trained as it is, and an
adapter needs a checkpoint to be merged into.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from ..catalog import resolve
from ..chat import SYSTEM_PROMPTS, Template, template_for
from ..chat_jinja import JinjaTemplate
from ..engines.base import Vocabulary
from ..engines.torch_hardware import detect
from ..engines.torch_tokenizer import open_tokenizer
from ..errors import BadInput, BadModelFile, EngineUnavailable, UnsupportedFeature
from ..weights.checkpoint import Checkpoint, sound
from ..weights.llama import Shape, check_complete
from ..weights.unpack import unpack
from ..weights.vocabulary_files import TOKENIZER_FILES
from .attention import register
from .corpora import hash_of
from .options import FinetuneOptions, Options
from .precision import computes_bfloat16

Hears = Callable[[str], None]


@dataclass(frozen=True)
class Base:
    """A checkpoint folder that can be trained, and what is known of it without its weights."""

    folder: Path
    shape: Shape
    trained_window: int
    kind: str | None
    """base, chat, or None where the catalog does not know it."""
    template_name: str | None

    @cached_property
    def tokenizer(self) -> TrainingTokenizer:
        """The tokenizer that the model was trained with."""
        return TrainingTokenizer(open_tokenizer(self.folder, self.shape.vocabulary))

    @cached_property
    def tokenizer_hash(self) -> str:
        """Changes when the tokenizer's files do."""
        files = [self.folder / name for name in TOKENIZER_FILES if (self.folder / name).is_file()]
        return sha256(b"".join(hash_of(file) for file in files)).hexdigest()

    def template(self, options: FinetuneOptions) -> Template:
        """The chat template of a run. A base model becomes a chat model by it, so that its kind does not matter."""
        chosen, system = options.template, options.system
        if chosen not in (None, "llama-2", "metadata"):
            file = Path(str(chosen))
            if not file.is_file():
                raise BadInput(f"There is no chat template {chosen!r}.", "Valid: llama-2, metadata, or a Jinja file.")
            try:
                text = file.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise BadInput(f"The chat template {file} is no UTF-8 text.", "Save it as UTF-8.") from error
            return JinjaTemplate(text, SYSTEM_PROMPTS.get(system or "", system))
        try:
            return template_for(
                kind=None,
                template=chosen or self.template_name,
                metadata_template=self.tokenizer.chat_template,
                vocabulary_size=self.shape.vocabulary,
                system_prompt=system,
            )
        except UnsupportedFeature as error:
            raise UnsupportedFeature(error.problem, "Name one with --template: llama-2, or a Jinja file.") from error


class TrainingTokenizer:
    """A tokenizer as templates want it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.chat_template: str | None = inner.chat_template

    @property
    def vocabulary(self) -> Vocabulary:
        """See `chat.Tokenizer`."""
        found: Vocabulary = self._inner.vocabulary
        return found

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """See `chat.Tokenizer`."""
        found: list[int] = self._inner.tokenize(text, special=special)
        return found

    def token_bytes(self, token: int) -> bytes:
        """See `chat.Tokenizer`."""
        found: bytes = self._inner.token_bytes(token)
        return found


def open_base(name: str, run: Path, hears: Hears | None = None, *, main: bool = True) -> Base:
    """The base called `name`; a GGUF file is unpacked to `run/base` by the `main` process, once.

    Raises as `catalog.resolve` does, and `BadModelFile` for what is no LLaMA checkpoint or lacks some of its weights.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("peft") is None:
        raise EngineUnavailable("Training needs PyTorch and PEFT.", 'Install them with: pip install "hanpaca[train]"')
    source = resolve(name)
    path = source.path
    if path is None:
        raise BadInput(f"{name} is on a server: it cannot be trained.", "Give a checkpoint or a GGUF file.")
    if path.is_file():
        if main:
            _unpack_once([path, *source.loras], run / "base", hears)
        path = run / "base"
    checkpoint = Checkpoint.open(path)
    shape = Shape.of(checkpoint.config)
    check_complete(checkpoint, shape)  # transformers would make up what is missing
    with sound(path / "config.json"):
        window = int(checkpoint.config.get("max_position_embeddings", 2048))
    entry = source.entry
    return Base(
        path,
        shape,
        window,
        entry.kind if entry else None,
        entry.template if entry else None,
    )


def _unpack_once(files: list[Path], folder: Path, hears: Hears | None) -> None:
    """Unpack a GGUF file and its adapters, unless the folder has them from a run before. Raises `BadInput` where it has
    another model."""
    kept, ours = folder / "unpacked.json", json.dumps([_ending(file) for file in files])
    if not (folder / "config.json").is_file():
        if hears:
            hears(f"Unpacking {files[0].name} to {folder}")
        unpack(files[0], folder, loras=files[1:])
        kept.write_text(ours, encoding="utf-8")
    elif kept.is_file() and kept.read_text(encoding="utf-8") != ours:
        raise BadInput(
            f"{folder} was unpacked from another model than {files[0].name}.", "Name another folder with --out."
        )


def _ending(file: Path) -> tuple[int, str]:
    """Bytes of a file and a hash of its end, where GGUF files have weights: what tells two models of one kind apart."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        opened.seek(max(0, size - 2**20))
        return size, sha256(opened.read()).hexdigest()


def load_model(base: Base, options: Options) -> Any:
    """The model ready for training: in its number format, with its LoRA pairs, everything else frozen."""
    import torch
    import transformers

    hardware = detect("auto")
    settings: dict[str, Any] = {"local_files_only": True, "dtype": weights_dtype(options, hardware.device)}
    flash = hardware.flash_attention and hardware.capability >= (8, 0) and settings["dtype"] != torch.float32
    settings["attn_implementation"] = "flash_attention_2" if flash else register()
    if options.quantization:
        settings |= _quantized(options, settings["dtype"])
    try:
        model: Any = transformers.LlamaForCausalLM.from_pretrained(base.folder, **settings)
    except Exception as error:  # it has its own for a config.json that is wrong, and Python's
        why = " ".join(str(error).split()).rstrip(".")[:300] or "no reason given"
        raise BadModelFile(
            f"transformers cannot load {base.folder}: {why} ({type(error).__name__}).",
            "Check its config.json and its weights.",
        ) from error
    if options.method == "lora":
        return _with_lora(model, base, options)
    model.requires_grad_(True)
    return model


def weights_dtype(options: Options, device: str) -> Any:
    """Trained weights are float32 everywhere; a frozen base is as small as its forward pass allows."""
    import torch

    if options.method == "full" or device.partition(":")[0] == "cpu" or options.dtype == "float32":
        return torch.float32
    return torch.bfloat16 if computes_bfloat16() else torch.float16


def _quantized(options: Options, dtype: Any) -> dict[str, Any]:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EngineUnavailable(
            "8-bit and 4-bit bases need the package bitsandbytes.",
            'Install it with: pip install "hanpaca[bitsandbytes]"',
        )
    import transformers

    make: Any = transformers.BitsAndBytesConfig
    if options.quantization == "8bit":
        return {"quantization_config": make(load_in_8bit=True)}
    four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    return {"quantization_config": make(load_in_4bit=True, **four)}


def _with_lora(model: Any, base: Base, options: Options) -> Any:
    import peft

    if options.quantization:
        prepare: Any = peft.prepare_model_for_kbit_training
        model = prepare(model, use_gradient_checkpointing=False)
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=int(options.alpha) if options.alpha == int(options.alpha) else options.alpha,  # type: ignore[arg-type]
        lora_dropout=options.dropout,
        target_modules=list(options.targets),
        modules_to_save=also_trained(base, options) or None,
        ensure_weight_tying=base.shape.tied and bool(options.also),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT's, about tying, which is settled here
        warnings.simplefilter("ignore", FutureWarning)  # and what PEFT asks transformers by an old name
        try:
            wrapped: Any = peft.get_peft_model(model, config)
        except ValueError as error:
            raise BadInput(f"These layers cannot get LoRA pairs: {error}.", "See --targets and --also.") from error
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def check_layers(base: Base, options: Options) -> None:
    """Raise `BadInput` where --targets or --also name what the model has not, or both the same layer."""
    layers = dict.fromkeys([*(name.removesuffix(".weight") for name in base.shape.weights()), "lm_head"])
    found: list[set[str]] = []
    for option, names in (("targets", options.targets), ("also", options.also)):
        for name in names:
            if not any(is_named(layer, (name,)) for layer in layers):
                valid = ", ".join(dict.fromkeys(layer.rpartition(".")[2] for layer in layers))
                raise BadInput(f"--{option} {name!r} is no layer of this model.", f"Valid: {valid}.")
        whole = {layer for layer in layers if is_named(layer, names)}
        found.append({"model.embed_tokens" if base.shape.tied and one == "lm_head" else one for one in whole})
    if both := found[0] & found[1]:
        raise BadInput(
            f"--targets and --also name the same layer: {', '.join(sorted(both))}.",
            "A layer gets LoRA pairs or is trained whole: name it in one of them.",
        )


def is_named(layer: str, names: Collection[str]) -> bool:
    """Whether `names` has the layer, by its own name or by more of its path, as PEFT takes them.

    >>> is_named("model.layers.0.self_attn.q_proj", ["q_proj"]), is_named("model.layers.0.self_attn.q_proj", ["j"])
    (True, False)
    """
    return any(f".{layer}".endswith(f".{name}") for name in names)


def also_trained(base: Base, options: Options) -> list[str]:
    """The layers trained whole. A head that is tied to the embedding is the same layer, and stays so."""
    if base.shape.tied and set(options.also) & {"embed_tokens", "lm_head"}:
        return [*(name for name in options.also if name not in ("embed_tokens", "lm_head")), "embed_tokens"]
    return list(options.also)


def copy_tokenizer(base: Base, folder: Path) -> None:
    """Put the base's tokenizer files beside what was trained: `tokenizer.model` where the base has one."""
    for name in TOKENIZER_FILES:
        if (base.folder / name).is_file():
            shutil.copyfile(base.folder / name, folder / name)
