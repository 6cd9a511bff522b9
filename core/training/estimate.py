"""Memory and time of a run before it starts. Arithmetic over shapes and token counts; no model is loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..memory import available
from ..weights.files import gib
from ..weights.llama import Shape
from .base import also_trained, is_named
from .options import Options
from .precision import autocast
from .run import Prepared

_SLOW = 40e9
"""Useful operations a second of two CPU cores with AVX2, measured on SmolLM2; a GPU makes a hundred times as many."""


@dataclass(frozen=True)
class Estimate:
    """Bytes and counts."""

    parameters: int
    trained: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    steps: int
    tokens: int
    """Of the whole run, in all epochs."""
    operations: float
    free: int

    @property
    def memory(self) -> int:
        """All of it, in one process without sharding."""
        return self.weights + self.gradients + self.optimizer + self.activations

    def as_dict(self) -> dict[str, Any]:
        """Everything by name."""
        return vars(self) | {"memory": self.memory, "seconds_on_two_cores": round(self.operations / _SLOW)}

    def rows(self) -> list[tuple[str, str]]:
        """For people."""
        return [
            ("parameters", f"{self.parameters:,}"),
            ("trained", f"{self.trained:,} ({100 * self.trained / self.parameters:.1f} %)"),
            ("weights", gib(self.weights)),
            ("gradients", gib(self.gradients)),
            ("optimizer", gib(self.optimizer)),
            ("activations", f"about {gib(self.activations)}"),
            ("memory in one process", f"about {gib(self.memory)}, free here: {gib(self.free)}"),
            ("steps", f"{self.steps:,}"),
            ("tokens", f"{self.tokens:,}"),
        ]

    def sentence(self) -> str:
        """What to expect."""
        hours = self.operations / _SLOW / 3600
        fits = "It fits" if self.memory < self.free else "It does not fit into the free memory"
        return (
            f"{fits}. On two CPU cores it takes about {hours:.1f} hours; the first steps of the run say it exactly. "
            "ZeRO-3 and FSDP divide weights, gradients and optimizer by the number of GPUs."
        )


def estimate(ready: Prepared) -> Estimate:
    """What a prepared run will need."""
    options, shape = ready.options, ready.base.shape
    sizes = {name: math.prod(size) for name, size in shape.weights().items()}
    parameters = sum(sizes.values())
    added = _added(ready, sizes) if options.method == "lora" else 0
    trained = added or parameters
    tokens = _tokens(ready)
    return Estimate(
        parameters + (added if options.method == "lora" else 0),
        trained,
        round(parameters * _bytes_of_base(options)) + (4 * added),
        4 * trained,
        8 * trained,
        _activations(shape, options),
        ready.steps,
        tokens,
        tokens * _operations(shape, options, parameters),
        available(),
    )


def _added(ready: Prepared, sizes: dict[str, int]) -> int:
    """Parameters of LoRA pairs and of the copies of layers trained whole."""
    options, shape = ready.options, ready.base.shape
    found = 0
    for name, size in shape.weights().items():
        layer = name.removesuffix(".weight")
        if is_named(layer, options.targets):
            found += options.rank * sum(size)
        if is_named(layer, also_trained(ready.base, options)):
            found += sizes[name]
    return found


def _bytes_of_base(options: Options) -> float:
    if options.quantization:
        return {"8bit": 1.1, "4bit": 0.6}[options.quantization]
    return 4 if options.method == "full" or autocast(options.dtype) == "float32" else 2


def _activations(shape: Shape, options: Options) -> int:
    """About: what a layer keeps for the way back, for each token, and the logits."""
    width = 4 if autocast(options.dtype) == "float32" else 2
    layer = 8 * shape.hidden + 4 * shape.ffn + 2 * (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    recomputed = options.checkpointing == "on"
    kept = shape.layers * (shape.hidden if recomputed else layer) + (layer if recomputed else 0)
    return options.batch * (width * kept + 2 * width * shape.vocabulary)


def _operations(shape: Shape, options: Options, parameters: int) -> float:
    """For each token: two for every weight forward, four back, two of which LoRA saves; and attention."""
    matrices = parameters - (0 if shape.tied else shape.vocabulary * shape.hidden)
    factor = 4 if options.method == "lora" else 6
    factor += 2 if options.checkpointing == "on" else 0
    return factor * matrices + 6 * shape.layers * shape.heads * shape.head_dim * options.length


def _tokens(ready: Prepared) -> int:
    """Exactly where the run is short; else from a sample of its batches."""
    count = ready.batches.real
    sample = range(count) if count <= 2000 else range(0, count, count // 1000)
    lengths = [sum(len(item.ids) for item in ready.batches.items(number)) for number in sample]
    return round(sum(lengths) * count / len(lengths))
