"""A PEFT LoRA adapter as changes to a checkpoint's tensors.

Knows PEFT's files: low-rank pairs on linear layers and embeddings, layers trained in full (`modules_to_save`), rank
and alpha patterns. Whatever else an adapter holds is refused, never dropped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..chat import FIRST_GENERATION
from ..errors import BadInput, ModelNotFound, UnsupportedFeature
from .checkpoint import Tensor, read_json, read_tensors, sound
from .vocabulary_files import token_count

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SPARE_ROWS = 128
"""Fewer rows than that may stand behind the last token: vocabularies are rounded up."""

_FULL = re.compile(r"(.+?)(?:\.base_layer|\.modules_to_save(?:\.default)?)?\.(weight|bias)$")
_LOW_RANK = re.compile(r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(?:\.default)?(?:\.weight)?$")
_OTHER_KINDS = {
    "use_dora": "DoRA", "alora_invocation_tokens": "aLoRA", "use_qalora": "QALoRA", "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA", "monteclora_config": "MonteCLoRA", "arrow_config": "Arrow",
    "layer_replication": "replicated layers", "fan_in_fan_out": "transposed weights",
}  # fmt: skip
"""Settings of PEFT with which a pair is not simply added to its weight, and what they are called."""
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""PEFT's ways to begin an adapter that leave the base's weights as they are. The others (PiSSA, OLoRA, CorDA, LoftQ,
LoRA-GA) take something out of the base first, so that adding the pairs to the whole base gives another model."""


@dataclass(frozen=True)
class LowRank:
    """weight += scale · B A."""

    a: Tensor
    b: Tensor
    scale: float
    embedding: bool = False
    """PEFT keeps the pair of an embedding the other way round: weight += scale · (B A)ᵀ."""

    @property
    def shape(self) -> tuple[int, int]:
        """The weight's shape that the pair fits."""
        rows, columns = self.b.shape[0], self.a.shape[1]
        return (columns, rows) if self.embedding else (rows, columns)

    def delta(self, start: int, stop: int, dtype: Any = np.float32) -> NDArray[Any]:
        """The change of the weight's rows `start` to `stop`."""
        if self.embedding:
            left = self.a.read(0, self.a.rows)[:, start:stop].T.astype(dtype)
            right = self.b.read(0, self.b.rows).T.astype(dtype)
        else:
            left = self.b.read(start, stop).astype(dtype)
            right = self.a.read(0, self.a.rows).astype(dtype)
        product: NDArray[Any] = left @ right * dtype(self.scale)
        return product


@dataclass(frozen=True)
class Adapter:
    """What a LoRA folder changes, by the names of the checkpoint's tensors."""

    folder: Path
    config: Mapping[str, Any]
    full: Mapping[str, Tensor]
    """Tensors that replace the base's."""
    low_rank: Mapping[str, LowRank]
    """Changes on top."""

    @classmethod
    def open(cls, folder: Path) -> Adapter:
        """Read an adapter's table. Raises `ModelNotFound`, `BadModelFile`, or `UnsupportedFeature` for other kinds."""
        if folder.suffix == ".gguf":
            raise UnsupportedFeature(
                f"{folder.name} is an adapter in llama.cpp's form; here only PEFT's can be used.",
                "Use the engine llama_cpp, or give the folder that PEFT saved.",
            )
        config = read_json(folder / "adapter_config.json")
        if not config:
            raise ModelNotFound(
                f"{folder} is no LoRA adapter: it has no adapter_config.json.", "Give a folder that PEFT saved."
            )
        _check_kind(folder, config)
        with sound(folder):
            return cls._read(folder, config)

    @classmethod
    def _read(cls, folder: Path, config: Mapping[str, Any]) -> Adapter:
        full: dict[str, Tensor] = {}
        pairs: dict[str, dict[str, Tensor]] = {}
        for key, tensor in read_tensors(folder, ("adapter_model",)).items():
            name = key.removeprefix("base_model.model.")
            if ".original_module." in name:
                continue
            if low := _LOW_RANK.fullmatch(name):
                pairs.setdefault(low[1].removesuffix(".base_layer"), {})[low[2]] = tensor
            elif (found := _FULL.fullmatch(name)) and "lora_" not in name:
                full[f"{found[1]}.{found[2]}"] = tensor
            else:
                raise UnsupportedFeature(
                    f"The adapter {folder} holds {key}, which is neither a LoRA pair nor a whole layer.",
                    "Merge it with PEFT itself (merge_and_unload).",
                )
        return cls(folder, config, full, {f"{name}.weight": _pair(name, pair, config) for name, pair in pairs.items()})

    @property
    def rows(self) -> int | None:
        """Rows of the embedding that the adapter brings, if any: its vocabulary."""
        found = [self.full[name].shape[0] for name in (EMBEDDING, HEAD) if name in self.full]
        found += [self.low_rank[name].shape[0] for name in (EMBEDDING, HEAD) if name in self.low_rank]
        if len(set(found)) > 1:
            counts = " and ".join(map(str, sorted(set(found))))
            raise BadInput(
                f"The adapter {self.folder} has {counts} rows in its embedding and head.",
                "It is broken: save it again.",
            )
        return found[0] if found else None


def check_vocabulary(adapter: Adapter, rows: int) -> None:
    """Raise `BadInput` unless the adapter's vocabulary and tokenizer fit a model of `rows` embeddings."""
    tokens = token_count(adapter.folder)
    mine = adapter.rows
    first = mine in FIRST_GENERATION or tokens in FIRST_GENERATION
    if first or (rows in FIRST_GENERATION and mine not in (None, rows)):
        raise BadInput(
            f"{adapter.folder.name} (vocabulary {mine or tokens}) and this base ({rows}) are of different generations.",
            "The generations must not be mixed: take a second-generation adapter (55,296 tokens) on Llama-2.",
        )
    if mine is not None and mine < rows:
        raise BadInput(
            f"{adapter.folder.name} has a vocabulary of {mine} and the model one of {rows}.",
            "They do not belong together: merge the adapter into the base it was trained on.",
        )
    if mine is None and tokens is not None and tokens > rows:
        raise BadInput(
            f"{adapter.folder.name} was trained on a vocabulary of {tokens}; the model has {rows}.",
            "Merge the adapter that brings the larger vocabulary first.",
        )
    if mine is not None and tokens is not None and not 0 <= mine - tokens < SPARE_ROWS:
        raise BadInput(
            f"The tokenizer in {adapter.folder.name} has {tokens} tokens and its embedding {mine} rows.",
            "It is the wrong tokenizer for this adapter: put the one it was trained with into its folder.",
        )


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind, start = config.get("peft_type", "LORA"), config.get("init_lora_weights", True)
    others = [name for key, name in _OTHER_KINDS.items() if config.get(key)]
    if kind != "LORA" or others:
        raise UnsupportedFeature(
            f"The adapter {folder} is no plain LoRA ({', '.join(others) or kind}).",
            "Use it with PEFT itself, which can also merge most kinds (merge_and_unload).",
        )
    if (start.lower() if isinstance(start, str) else start) not in _PLAIN_STARTS:
        raise UnsupportedFeature(
            f"The adapter {folder} was begun as {start!r}, which also changed the base's weights.",
            "Merge it with PEFT itself (merge_and_unload), or save it there as a plain LoRA "
            "(path_initial_model_for_weight_conversion).",
        )


def _pair(name: str, pair: Mapping[str, Tensor], config: Mapping[str, Any]) -> LowRank:
    embedding = "lora_embedding_A" in pair
    prefix = "lora_embedding_" if embedding else "lora_"
    if set(pair) != {f"{prefix}A", f"{prefix}B"}:
        raise BadInput(f"The adapter has only one half of the pair for {name}.", "It is broken: save it again.")
    if pair[f"{prefix}A"].shape[0] != pair[f"{prefix}B"].shape[1]:
        raise ValueError(f"the halves of the pair for {name} differ in rank")
    rank = _of_pattern(config.get("rank_pattern"), name, config["r"])
    alpha = _of_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", config["r"]))
    if pair[f"{prefix}A"].shape[0] != rank:
        rank = pair[f"{prefix}A"].shape[0]
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if not math.isfinite(scale):
        raise ValueError(f"{name} is scaled by {scale}")
    return LowRank(pair[f"{prefix}A"], pair[f"{prefix}B"], scale, embedding)


def _of_pattern(patterns: Mapping[str, float] | None, name: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of a module's name at a dot."""
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", name)), default)
