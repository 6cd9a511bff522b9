"""What fits in this machine's memory: weights by quantization, keys and values by context length.

Arithmetic over shapes; no model is opened. Sizes of published types follow llama.cpp's rules: bits per weight of the
layers, of the input embedding and of the output matrix; they are within 2 % of real files (`quantize --plan` is exact).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .catalog import CatalogEntry, Shape, entries
from .errors import BadInput

GIB = 2**30

BITS: Mapping[str, tuple[float, float, float]] = {
    "f16": (16, 16, 16),
    "q8_0": (8.5, 8.5, 8.5),
    "q6_k": (6.5625, 6.5625, 6.5625),
    "q5_k": (5.68, 5.5, 6.5625),
    "q5_1": (6.0, 6.0, 6.5625),
    "q5_0": (5.5, 5.5, 6.5625),
    "q4_k": (4.83, 4.5, 6.5625),
    "q4_1": (5.0, 5.0, 6.5625),
    "q4_0": (4.5, 4.5, 6.5625),
    "q3_k": (3.88, 3.4375, 6.5625),
    "q2_k": (2.90, 2.625, 6.5625),
}
"""Published type, best first: bits per weight of layers, input embedding, output matrix."""

KV_BYTES: Mapping[str, float] = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes per number in the cache of keys and values."""

WORKING = 300 * 2**20
"""Bytes for activations and logits while a model runs."""
RESERVE = 0.9
"""Share of the free memory that a model may take."""


@dataclass(frozen=True)
class Fit:
    """One model at one quantization on this machine. Sizes in bytes, contexts in positions."""

    name: str
    type: str
    weights: int
    native_context: int
    contexts: Mapping[str, int]
    """KV type → the longest context that fits, at most 4.5 native windows; 0 where the weights alone do not fit."""

    @property
    def fits(self) -> bool:
        """Whether the whole native window fits with keys and values in f16."""
        return self.contexts["f16"] >= self.native_context


def weights_size(shape: Shape, vocabulary: int, kind: str) -> int:
    """Bytes of a GGUF file of this shape; `kind` is a published type."""
    if kind not in BITS:
        raise BadInput(f"The size of {kind!r} is not known here.", "Known: " + ", ".join(BITS) + ".")
    layer_bits, embedding_bits, output_bits = BITS[kind]
    embedding = vocabulary * shape.hidden
    norms = shape.hidden * (2 * shape.layers + 1)
    layers = shape.parameters(vocabulary) - embedding * (1 if shape.tied else 2) - norms
    if shape.tied:
        embedding_bits, output_bits = output_bits, 0
    bits = layers * layer_bits + embedding * (embedding_bits + output_bits) + norms * 32
    return round(bits / 8) + 32 * vocabulary


def kv_size(shape: Shape, context: int, kind: str = "f16") -> int:
    """Bytes of keys and values of `context` positions."""
    if kind not in KV_BYTES:
        raise BadInput(f"{kind!r} is not a type for keys and values.", "Valid: " + ", ".join(KV_BYTES) + ".")
    return round(2 * shape.layers * shape.kv_heads * shape.head_dim * KV_BYTES[kind] * context)


def available() -> int:
    """Bytes of memory that a new process may take: what is free, or a container's limit where that is less."""
    import psutil

    return int(min(psutil.virtual_memory().available, _container_room(Path("/sys/fs/cgroup"))))


def _container_room(folder: Path) -> float:
    """Bytes that a container's limit (cgroup v2) leaves; infinite without one. Cached files, such as weights that were
    read once, count as free: they leave when memory is short."""
    try:
        most, used = ((folder / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return math.inf
    cached = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    return max(0, int(most) - int(used) + cached) if most.isdigit() else math.inf


def fit(entry: CatalogEntry, kind: str, memory: int | None = None) -> Fit:
    """Whether `entry` at quantization `kind` fits `memory` bytes (None: this machine's)."""
    room = (available() if memory is None else memory) * RESERVE
    weights = weights_size(entry.shape, entry.vocabulary, kind)
    left = room - weights - WORKING
    most = round(4.5 * entry.native_context)
    contexts = {kv: max(0, min(most, int(left / kv_size(entry.shape, 1024, kv) * 1024))) for kv in KV_BYTES}
    return Fit(entry.name, kind, weights, entry.native_context, contexts)


def fits(models: Iterable[CatalogEntry] | None = None, memory: int | None = None) -> tuple[Fit, ...]:
    """A row for each published model and quantization; `models` defaults to the catalog."""
    memory = available() if memory is None else memory
    chosen = entries() if models is None else models
    return tuple(fit(entry, kind, memory) for entry in chosen for kind in entry.types if kind in BITS)


def best_type(entry: CatalogEntry, memory: int | None = None, types: Iterable[str] | None = None) -> str:
    """The best quantization that fits with the native window (at most 4,096 positions of it); the smallest where none
    does. `types` are those to choose from, by default the published ones. F16 is chosen only where there is nothing
    else: q8_0 is as good at half the size.
    """
    memory = available() if memory is None else memory
    wanted = min(entry.native_context, 4096)
    there = set(entry.types if types is None else types)
    kinds = [kind for kind in BITS if kind in there and (kind != "f16" or there == {"f16"})]
    if not kinds:
        raise BadInput(f"There is no known quantization of {entry.name}.", "Known: " + ", ".join(BITS) + ".")
    return next((kind for kind in kinds if fit(entry, kind, memory).contexts["f16"] >= wanted), kinds[-1])
